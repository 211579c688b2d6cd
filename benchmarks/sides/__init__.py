"""The sides of the benchmarks of answers, one leaf each: ours, and the peers at their best settings."""
