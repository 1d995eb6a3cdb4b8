"""What an agent accepts from the wire: kernels and formats it has, dimensions and settings within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from servecast.agent.messages import KernelSupport, Settings
from servecast.agent.stopping import StopRule
from servecast.compiler.kernels import KernelCase

MAX_CASE_S = 60.0  # the longest that a caller may ask one case to sample for
MAX_SAMPLES = 100_000
MAX_DIM = 1 << 20  # above every width, vocabulary and context in use
MAX_DIMS = {"payload_bytes": 1 << 33}  # 8 GiB, the largest message of nccl-tests
DIVIDES = (("kv_heads", "heads"),)
AT_MOST = (("experts", "total_experts"), ("rotary_dim", "head_dim"))
NOTHING: Mapping[str, str] = {}
MAY_BE_ZERO = frozenset({"window", "residual", "context"})  # the other axes count something


class UnknownKernelError(ValueError):
    """This node has no such kernel, or not in that format."""


class BadCaseError(ValueError):
    """A case or setting that is wrong on every node."""


def check_case(
    case: KernelCase, supported: Sequence[KernelSupport], lacks: Mapping[str, str] = NOTHING
) -> None:
    """``lacks`` says why the node may not run a format. Raises: UnknownKernelError, BadCaseError."""
    found = [support for support in supported if support.kernel == case.kernel]
    if not found:
        have = ", ".join(sorted({s.kernel for s in supported}))
        raise UnknownKernelError(f"no kernel {case.kernel!r}; this node has: {have}")
    if not any(support.has_formats(case) for support in found):
        raise UnknownKernelError(_why_not(case, found, lacks))
    _check_dims(case, found[0].dims)
    _check_shape(case.kernel, dict(case.dims))


def stop_rule(settings: Settings, methods: tuple[str, ...]) -> StopRule:
    """The agent's rule with the caller's wishes. Raises: BadCaseError."""
    if settings.method is not None and settings.method not in methods:
        raise BadCaseError(f"no method {settings.method!r}; this node has: {', '.join(methods)}")
    asked = {
        name: value
        for name in ("relative_ci", "min_samples", "max_samples", "max_case_s")
        if (value := getattr(settings, name)) is not None
    }
    try:
        rule = replace(StopRule(), **asked)
    except ValueError as error:
        raise BadCaseError(str(error)) from error
    if rule.max_case_s > MAX_CASE_S or rule.max_samples > MAX_SAMPLES:
        raise BadCaseError(
            f"max_case_s may be {MAX_CASE_S:g} and max_samples {MAX_SAMPLES} at most, "
            f"not {rule.max_case_s:g} and {rule.max_samples}"
        )
    return rule


def _why_not(case: KernelCase, found: list[KernelSupport], lacks: Mapping[str, str]) -> str:
    """One sentence: the format that is not there, why where that is known, and what is there."""
    dtypes = {name: None for support in found for name in support.dtypes}  # in order
    if case.dtype in dtypes:
        what, value = "kv_dtype", case.kv_dtype
        of_dtype = [support for support in found if case.dtype in support.dtypes]
        have = {name: None for support in of_dtype for name in support.kv_dtypes}
    else:
        what, value, have = "dtype", case.dtype, dtypes
    reason = f": {lacks[value]}" if value in lacks else ""
    with_it = f" with dtype {case.dtype}" if what == "kv_dtype" else ""
    return (
        f"{case.kernel}: no {what} {value!r} on this node{reason}; "
        f"it has{with_it}: {', '.join(have) or 'none'}"
    )


def _check_dims(case: KernelCase, wanted: tuple[str, ...]) -> None:
    names = {name for name, _ in case.dims}
    if names != set(wanted):
        given = ", ".join(sorted(names)) or "none"
        raise BadCaseError(f"{case.kernel} wants the dimensions {', '.join(wanted)}, not {given}")
    for name, value in case.dims:
        least, most = int(name not in MAY_BE_ZERO), MAX_DIMS.get(name, MAX_DIM)
        if not least <= value <= most:
            raise BadCaseError(
                f"{case.kernel}: {name} must be between {least} and {most}, not {value}"
            )


def _check_shape(kernel: str, dims: dict[str, int]) -> None:
    """Relations between dimensions without which a kernel has no meaning."""
    for part, whole in DIVIDES:
        if part in dims and whole in dims and dims[whole] % dims[part]:
            raise BadCaseError(
                f"{kernel}: {part} {dims[part]} does not divide {whole} {dims[whole]}"
            )
    for small, large in AT_MOST:
        if small in dims and large in dims and dims[small] > dims[large]:
            raise BadCaseError(f"{kernel}: {small} {dims[small]} exceeds {large} {dims[large]}")
    choices = dims.get("total_experts", dims.get("experts", 0))
    if dims.get("top_k", 0) > choices:
        raise BadCaseError(f"{kernel}: top_k {dims['top_k']} exceeds the {choices} experts")
