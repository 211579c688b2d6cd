"""Indexes: which texts are nearest to a query."""
