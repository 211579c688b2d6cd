"""Configurations of other tools, read as recipes, one leaf a tool."""
