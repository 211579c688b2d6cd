"""Predictors that every model must beat."""
