"""Texts of a collection: indexed as an artifact, searched by words and by vectors."""
