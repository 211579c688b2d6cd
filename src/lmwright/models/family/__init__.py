"""The parts that family leaves share: weight-name maps, heads, builders of specs from configs."""
