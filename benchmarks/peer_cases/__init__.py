"""What `benchmarks/peers.py` measures: one module a topic, every peer's output checked first."""
