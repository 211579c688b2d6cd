"""Tunes: which weights of a network learn, and what is put round those that do not."""
