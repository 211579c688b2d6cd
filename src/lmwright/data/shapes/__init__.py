"""Shapes in which conversations and instructions are published, one leaf each."""
