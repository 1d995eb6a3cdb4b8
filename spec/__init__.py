"""The shipped `.llm` specs, GPU SKUs and example trace. Data only."""
