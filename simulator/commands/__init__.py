"""The commands: options in, values to the pure core, answers out."""
