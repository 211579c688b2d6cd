"""What a task binds together: examples, head, loss, decoding, score."""
