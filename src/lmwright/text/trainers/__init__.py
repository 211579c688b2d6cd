"""Kinds of tokenizers, each trained on a stream of texts by the library that reads it."""
