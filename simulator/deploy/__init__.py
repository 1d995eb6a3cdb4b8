"""A result as files that start an engine."""
