"""The sides of the benchmarks of answers, one leaf each: ours, and peers at their best settings."""
