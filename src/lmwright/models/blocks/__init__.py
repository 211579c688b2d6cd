"""What a spec can name, as modules over a ragged stream."""
