"""Pages, cards and drawings made from facts."""
