"""Measures kernels on the machine it runs on and streams samples over gRPC.

Reading guide: `protos/agent.proto` (the contract) and `messages.py` (the same as values); `service.py` (the
gRPC face) and `device_thread.py` (one device, one thread); `profiler.py` (one case from start to end);
`timing.py` and `stopping.py` (how a kernel is timed, without a device); `cpu.py` and `cuda.py` (the devices);
`kernels/` (what can be timed); `group_profiler.py`, `collectives.py` and `rank.py` (collectives between
processes); `security.py`; `client.py` (what callers use; it needs no PyTorch)."""
