"""What this installation has and lacks: versions, extras, GPU, cache, profile store. Changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import platformdirs

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import UserError
from servecast.estimator.doctor import examine
from servecast.estimator.store import Store

PACKAGES = ("servecast", "numpy", "numba", "duckdb", "scikit-learn", "grpcio", "protobuf")
EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "silicon": (("aiconfigurator_core",), "public kernel timings"),
    "plot": (("matplotlib", "scienceplots"), "figures for print"),
    "agent": (("torch",), "measuring this machine's processor"),
    "cuda12 or cuda13": (("torch", "cupy", "pynvml"), "measuring NVIDIA GPUs"),
    "ray": (("ray",), "searching on a cluster"),
}
"""Extras with the modules that they bring and what they are for."""
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
GPU_TIMEOUT_S = 10


class State(StrEnum):
    OK = "ok"
    ABSENT = "absent"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    state: State
    told: str


def diagnose(store: Path) -> Iterator[Finding]:
    """One finding after another; ``ABSENT`` is what one can do without."""
    yield Finding("python", State.OK, f"{platform.python_version()} on {platform.platform()}")
    yield from map(_package, PACKAGES)
    yield from (_extra(name, *about) for name, about in EXTRAS.items())
    yield _gpu()
    yield _cache()
    yield from _store(store)


def _package(name: str) -> Finding:
    try:
        return Finding(name, State.OK, version(name))
    except PackageNotFoundError:
        return Finding(name, State.WRONG, "is not installed: pip install servecast")


def _extra(name: str, modules: tuple[str, ...], purpose: str) -> Finding:
    missing = [module for module in modules if find_spec(module) is None]
    if not missing:
        return Finding(f"extra {name}", State.OK, purpose)
    ask = name.split()[-1]
    told = f"{purpose}: pip install 'servecast[{ask}]' brings {', '.join(missing)}"
    return Finding(f"extra {name}", State.ABSENT, told)


def _gpu() -> Finding:
    if shutil.which(NVIDIA_SMI[0]) is None:
        return Finding("gpu", State.ABSENT, "no NVIDIA driver here; predictions need none")
    try:
        asked = subprocess.run(
            NVIDIA_SMI, capture_output=True, text=True, timeout=GPU_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpu", State.WRONG, f"nvidia-smi fails: {error}")
    return Finding("gpu", State.OK, "; ".join(asked.stdout.split("\n")).strip("; "))


def _cache() -> Finding:
    """Where the compiled engine is kept; without it each process compiles it anew."""
    folder = Path(platformdirs.user_cache_dir("servecast"))
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        told = f"{existing} cannot be written to: every run compiles the engine anew"
        return Finding("cache", State.WRONG, told)
    return Finding("cache", State.OK, str(folder))


def _store(path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield Finding("store", State.ABSENT, f"{path} is made on first use")
        return
    try:
        with Store.open(path, read_only=True) as store:
            lines, examined = store.contents(), examine(store, shipped_skus())
    except UserError as error:
        yield Finding("store", State.WRONG, str(error))
        return
    rows = sum(line.rows for line in lines)
    skus = ", ".join(sorted({line.sku for line in lines})) or "no GPU"
    yield Finding("store", State.OK, f"{path}: {rows:,} rows of {skus}")
    if examined:
        told = f"{len(examined)} findings of rows kept from estimators: servecast store doctor"
        yield Finding("store rows", State.OK, told)
