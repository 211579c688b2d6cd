"""Closing the circle: gate, promote, roll back, watch, collect feedback, retrain."""
