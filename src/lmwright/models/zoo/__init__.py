"""One leaf per model family: a spec, a size table and a weight-name map."""
