"""Regularizers: what is done to losses, gradients and weights so that a model learns no chance."""
