"""How good, with error bars."""
