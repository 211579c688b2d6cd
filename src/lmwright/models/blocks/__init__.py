"""Modules of the ops, norms and embeddings of a spec, over a packed stream."""
