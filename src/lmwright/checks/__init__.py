"""Checks and probes of a training before its first step, for any task."""
