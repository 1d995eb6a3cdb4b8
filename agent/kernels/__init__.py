"""One file per operator: the tensors it needs and the launch to time; `registry.py` lists them all.

`kernel.py` has the types, `buffers.py` the tensors, `fuse.py` the formulas that a GPU gets as one kernel,
`reference.py` the comparison with float64."""
