"""What arrives: traces in any format, made workloads, arrival processes, and what they have in common."""
