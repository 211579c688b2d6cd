"""Distillations: what a smaller model learns of a larger one that stays as it is."""
