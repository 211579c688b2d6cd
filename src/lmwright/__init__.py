"""Makes language models and keeps them good."""

__version__ = "0.1.0"
