"""Pure functions from predictions to numbers, and their statistics."""
