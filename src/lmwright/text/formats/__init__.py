"""Tokenizer files of every format, turned into the one that is kept: tokenizer.json."""
