"""What a recipe will cost, and why a run failed."""
