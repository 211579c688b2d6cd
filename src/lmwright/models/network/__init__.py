"""The network of a spec: its modules and weights, their first values, its drawing and costs."""
