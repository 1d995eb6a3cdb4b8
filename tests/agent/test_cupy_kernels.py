"""The CUDA C that CuPy launches, run on a processor: its compiler and threads stand in for a GPU.

What it cannot show: that NVRTC compiles it (`nvcc` is asked where it is installed), and how fast it is.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import Kernel, Shape, relative_error
from servecast.agent.kernels.reference import SIZES

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "agent" / "kernels"
MODULE = "servecast.agent.kernels.with_cupy"
THREADS = 8  # of a block here


class Compiled:
    """What stands in for cupy.RawModule: the same source, compiled for this processor."""

    library: ctypes.CDLL

    def __init__(self, **_: Any) -> None: ...

    def get_function(self, name: str) -> Callable[..., None]:
        function = getattr(self.library, name.replace("<", "_").rstrip(">"))

        def launch(blocks: tuple[int], _: tuple[int], arguments: tuple[Any, ...]) -> None:
            plain = (
                ctypes.c_float(a) if isinstance(a, np.float32) else ctypes.c_longlong(a)
                for a in arguments
            )
            function(ctypes.c_longlong(min(blocks[0], 64)), ctypes.c_longlong(THREADS), *plain)

        return launch


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kernel]]:
    """Those of `with_cupy.py`, whose launches run here."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here: the CUDA kernels were not run")
    library = tmp_path_factory.mktemp("cuda") / "kernels.so"
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", f"-I{KERNELS}"]
    subprocess.run([*command, HERE / "cuda_on_a_processor.cpp", "-o", library], check=True)
    Compiled.library = ctypes.CDLL(str(library))
    with pytest.MonkeyPatch.context() as patch:
        cuda = SimpleNamespace(ExternalStream=nullcontext)
        patch.setitem(sys.modules, "cupy", SimpleNamespace(RawModule=Compiled, cuda=cuda))
        patch.setattr("torch.cuda.current_stream", lambda: SimpleNamespace(cuda_stream=0))
        yield import_module(MODULE).KERNELS
    sys.modules.pop(MODULE, None)


NAMES = [
    "add",
    "embedding",
    "geglu",
    "gelu",
    "kv_write",
    "relu",
    "rms_norm",
    "rope",
    "silu",
    "swiglu",
]


def error_of(kernel: Kernel, dtype: str, **dims: int) -> tuple[float, float]:
    sizes = {name: SIZES[name] for name in kernel.dims} | dims
    buffers = Buffers(torch.device("cpu"), 1 << 28, 4096)
    kv_dtype = dtype if kernel.formats == import_module(MODULE).own_format else ""
    case = kernel.prepare(Shape(dtype, kv_dtype, sizes), buffers)
    reference = case.reference()
    return relative_error(case.launches[0](), reference), case.tolerance


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_cuda_kernel_computes_what_its_name_says(
    kernels: dict[str, Kernel], name: str, dtype: str
) -> None:
    error, tolerance = error_of(kernels[name], dtype, **({"rows": 5} if name != "kv_write" else {}))
    assert error <= tolerance


@pytest.mark.parametrize("width", [1, 7, 96])
def test_a_row_narrower_or_wider_than_a_block_is_normed_whole(
    kernels: dict[str, Kernel], width: int
) -> None:
    for residual in (0, 1):
        error, tolerance = error_of(
            kernels["rms_norm"], "fp32", rows=3, width=width, residual=residual
        )
        assert error <= tolerance


def test_the_kernels_cover_what_the_module_offers(kernels: dict[str, Kernel]) -> None:
    assert sorted(kernels) == NAMES


@pytest.mark.slow
def test_nvidias_compiler_takes_the_source(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc here: nobody compiled the CUDA kernels for a GPU")
    source = tmp_path / "all.cu"
    uses = "\n".join(
        f"template __global__ void add<{t}>(const {t}*, const {t}*, {t}*, long long);\n"
        f"template __global__ void rms_norm<{t}>"
        f"(const {t}*, {t}*, const {t}*, {t}*, long long, float);"
        for t in ("float", "bfloat16", "float16")
    )
    source.write_text(f'#include "{KERNELS / "cupy_kernels.cu"}"\n{uses}\n')
    command = ["nvcc", "-std=c++17", "-arch=sm_80", "-cubin", "-o", tmp_path / "out", source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
