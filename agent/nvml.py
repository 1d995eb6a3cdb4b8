"""What NVIDIA's management library tells of a GPU. A value that it cannot read is None, never zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from servecast.agent.messages import Conditions, Link

try:
    import pynvml
except ImportError:  # conditions are then unknown, and rows say so by their absence
    pynvml = None

# NVML's clock event reasons that mean: slower than asked for (nvml.h, nvmlClocksEventReason*).
THROTTLE_BITS = {
    0x04: "sw_power_cap",
    0x08: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake",
}
MAX_NVLINKS = 18  # of one GPU (NVLink 4 and 5)
SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class Nvml:
    """Handles by PyTorch's device index (CUDA_VISIBLE_DEVICES may permute it); empty without the library."""

    handles: tuple[Any, ...] = ()  # the library's handles are untyped

    def _read(self, index: int, query: Callable[[Any], Any]) -> Any:
        """The query's answer, or None where there is no library or this GPU does not tell."""
        if index >= len(self.handles):
            return None
        try:
            return query(self.handles[index])
        except pynvml.NVMLError:
            return None

    def power_limit_w(self, index: int) -> float | None:
        milliwatts = self._read(index, lambda h: pynvml.nvmlDeviceGetEnforcedPowerLimit(h))
        return None if milliwatts is None else milliwatts / 1e3

    def max_clock_mhz(self, index: int) -> float | None:
        found = self._read(
            index, lambda h: pynvml.nvmlDeviceGetMaxClockInfo(h, pynvml.NVML_CLOCK_SM)
        )
        return None if found is None else float(found)

    def driver_version(self) -> str | None:
        return None if not self.handles else str(pynvml.nvmlSystemGetDriverVersion())

    def energy_mj(self, index: int) -> int | None:
        """Millijoules since the driver was loaded (Volta and later)."""
        found = self._read(index, lambda h: pynvml.nvmlDeviceGetTotalEnergyConsumption(h))
        return None if found is None else int(found)

    def conditions(self, index: int) -> Conditions:
        bits = self._read(index, lambda h: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(h))
        power_mw = self._read(index, lambda h: pynvml.nvmlDeviceGetPowerUsage(h))
        return Conditions(
            clock_mhz=self._clock_mhz(index, "NVML_CLOCK_SM"),
            memory_clock_mhz=self._clock_mhz(index, "NVML_CLOCK_MEM"),
            temperature_c=self._read(
                index,
                lambda h: float(pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU)),
            ),
            power_w=None if power_mw is None else power_mw / 1e3,
            throttle_reasons=throttle_reasons(bits or 0),
        )

    def _clock_mhz(self, index: int, kind: str) -> float | None:
        found = self._read(index, lambda h: pynvml.nvmlDeviceGetClockInfo(h, getattr(pynvml, kind)))
        return None if found is None else float(found)

    def link(self, a: int, b: int) -> Link:
        """NVLink where active lanes of ``a`` lead to ``b`` or to a switch, else what the topology says."""
        lanes = self._lanes_between(a, b)
        if lanes:
            return Link(a, b, "nvlink", lanes)
        level = self._read(
            a, lambda h: pynvml.nvmlDeviceGetTopologyCommonAncestor(h, self.handles[b])
        )
        across = level is not None and level >= pynvml.NVML_TOPOLOGY_NODE
        return Link(a, b, "host" if across else "pcie")

    def _lanes_between(self, a: int, b: int) -> int:
        """A switch reaches every GPU; a bridge only the one at its other end."""
        theirs = self._read(b, lambda h: _bus_id(pynvml.nvmlDeviceGetPciInfo(h)))
        ends = (self._read(a, partial(_far_end, lane=lane)) for lane in range(MAX_NVLINKS))
        return sum(end is not None and end in (SWITCH, theirs) for end in ends)


def _far_end(handle: Any, lane: int) -> str | None:
    """The bus id of what an active lane leads to, SWITCH for any switch; None for a lane that is down."""
    if not pynvml.nvmlDeviceGetNvLinkState(handle, lane):
        return None
    kind = pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, lane)
    if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
        return SWITCH
    return _bus_id(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, lane))


def _bus_id(info: Any) -> str:
    found = info.busId
    return (found.decode() if isinstance(found, bytes) else str(found)).lower()


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Names of the reasons that slow a GPU; being idle or at the asked clock is none."""
    return tuple(sorted(name for bit, name in THROTTLE_BITS.items() if bits & bit))


def open_nvml(uuids: tuple[str, ...]) -> Nvml:
    """Handles of the GPUs with these UUIDs, in their order; none where the library or driver is absent."""
    if pynvml is None:
        return Nvml()
    try:
        pynvml.nvmlInit()
        return Nvml(tuple(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids))
    except pynvml.NVMLError:
        return Nvml()
