"""What a model should not do, measured and signed."""
