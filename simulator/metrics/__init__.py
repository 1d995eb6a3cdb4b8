"""What a run comes to, each metric defined once."""
