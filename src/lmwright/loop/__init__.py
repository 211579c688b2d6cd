"""Closing the circle: plan, gate, promote, roll back, watch, collect feedback, retrain."""
