"""Calls of tools in what a model writes: a file for each syntax, and one table of them."""
