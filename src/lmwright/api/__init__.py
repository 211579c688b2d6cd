"""The same things for Python programs and notebooks: models to ask, recipes to run."""
