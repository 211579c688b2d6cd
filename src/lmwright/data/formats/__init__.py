"""Formats of tables, one a file: from bytes to records."""
