"""Ways to learn several tasks together: how many rows of each, and how their losses are joined."""
