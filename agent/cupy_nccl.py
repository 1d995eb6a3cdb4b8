"""Collectives through CuPy's NCCL bindings, on PyTorch's tensors and stream.

The ranks meet through the process group that PyTorch has made; each launch is one call of NCCL's own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from cupy.cuda import nccl

from servecast.agent.collective_kernels import Library
from servecast.agent.kernels.kernel import Launch

TYPES = {
    torch.bfloat16: nccl.NCCL_BFLOAT16,
    torch.float16: nccl.NCCL_FLOAT16,
    torch.float32: nccl.NCCL_FLOAT32,
}


def library() -> Library:
    """Launches over a communicator of all ranks, whose name PyTorch's group carries from rank 0."""
    names = [nccl.get_unique_id() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(names)
    comm = nccl.NcclCommunicator(dist.get_world_size(), names[0], dist.get_rank())
    return partial(launch_of, comm)


def launch_of(comm: Any, kernel: str, x: torch.Tensor, out: torch.Tensor) -> Launch:
    """Gives the tensor that it fills. Sizes as in collective_kernels.py."""
    element = TYPES[x.dtype]
    pair = (x.data_ptr(), out.data_ptr())
    match kernel:
        case "all_reduce":
            return partial(_call, comm.allReduce, (*pair, len(x), element, nccl.NCCL_SUM), out)
        case "all_gather":
            return partial(_call, comm.allGather, (*pair, len(x), element), out)
        case "reduce_scatter":
            arguments = (*pair, len(out), element, nccl.NCCL_SUM)
            return partial(_call, comm.reduceScatter, arguments, out)
        case "all_to_all":
            return partial(_all_to_all, comm, x, out)
        case "send":
            return partial(_send, comm, x)
        case other:
            raise ValueError(f"no collective {other!r}")


def _call(function: Any, arguments: tuple[int, ...], out: torch.Tensor) -> torch.Tensor:
    function(*arguments, _stream())
    return out


def _all_to_all(comm: Any, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """One send and one receive for every rank, as one launch."""
    element = TYPES[x.dtype]
    nccl.groupStart()
    for peer, (own, theirs) in enumerate(
        zip(x.chunk(dist.get_world_size()), out.chunk(dist.get_world_size()), strict=True)
    ):
        comm.send(own.data_ptr(), len(own), element, peer, _stream())
        comm.recv(theirs.data_ptr(), len(theirs), element, peer, _stream())
    nccl.groupEnd()
    return out


def _send(comm: Any, x: torch.Tensor) -> torch.Tensor:
    if dist.get_rank() == 0:
        comm.send(x.data_ptr(), len(x), TYPES[x.dtype], 1, _stream())
    elif dist.get_rank() == 1:
        comm.recv(x.data_ptr(), len(x), TYPES[x.dtype], 0, _stream())
    return x


def _stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream)
