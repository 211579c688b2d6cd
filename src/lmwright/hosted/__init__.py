"""Clients of language models behind an endpoint."""
