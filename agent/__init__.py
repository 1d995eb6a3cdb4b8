"""Measures kernels on the machine it runs on and streams samples over gRPC.

Reading guide: `protos/agent.proto` (the contract), `service.py` (the gRPC face), `timing.py` and
`stopping.py` (how a kernel is timed), `kernels/` (what can be timed)."""
