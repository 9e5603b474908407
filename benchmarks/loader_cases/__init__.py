"""What benchmarks/loader.py measures."""
