"""Many requests on one model with no waste."""
