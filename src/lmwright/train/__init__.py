"""One training loop, where a method is a batch and a loss."""
