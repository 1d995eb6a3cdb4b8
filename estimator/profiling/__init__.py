"""What to measure, by which agents, and the progress of it."""
