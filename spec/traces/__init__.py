"""Example traffic, made by `benchmarks/make_example_trace.py`. Data only."""
