"""A task of another package, from its table to a swap; ensembles and prompts as artifacts."""
