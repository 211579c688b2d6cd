"""Ways to learn to learn: what one episode does to the weights of a body."""
