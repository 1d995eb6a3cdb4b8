"""One file per operator: the tensors it needs and the launch to time."""
