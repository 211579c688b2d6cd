"""The spec of a network as data, packed batches, keyed dropout and the matmul backends."""
