"""What an agent says of its devices, without a GPU."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from servecast.agent import cpu
from servecast.agent.cpu import ColdTimer, CpuBackend
from servecast.agent.device import SKU_BY_DEVICE_NAME, choose_backend, sku_of
from servecast.agent.interlude import Interlude, rows_of
from servecast.agent.kernels.kernel import Shape
from servecast.agent.messages import Link
from servecast.agent.nvml import Nvml, throttle_reasons
from servecast.agent.timing import Rotation
from servecast.agent.topology import choose_devices, slowest_kind
from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import AgentError


def test_every_gpu_that_is_known_by_name_is_declared_in_the_specs() -> None:
    assert set(SKU_BY_DEVICE_NAME.values()) <= set(shipped_skus())


def test_the_processor_is_one_device_with_its_memory_and_cache() -> None:
    (device,) = CpuBackend(1).devices()
    assert device.memory_bytes > 1 << 30
    assert device.processors >= 1
    assert sku_of(CpuBackend(1)) == "cpu"


def test_one_threads_processor_time_leaves_out_what_others_take() -> None:
    def sleep() -> torch.Tensor:
        time.sleep(0.02)  # as while another program has the processor
        return torch.zeros(())

    backend = CpuBackend(1)
    wall_us, own_us = (
        backend.elapsed(method, (sleep,), 0)(1) for method in ("cpu_eager", "cpu_time")
    )
    assert own_us < 5_000 < 20_000 <= wall_us
    assert CpuBackend(2).methods == ("cpu_eager",)  # nobody counts the time of several


def test_a_launch_finds_the_cores_own_cache_full_of_something_else_and_is_timed_alone() -> None:
    read: list[str] = []
    ticks = count(0, 1_000)

    def others() -> None:
        read.append("others")

    def launch() -> torch.Tensor:
        read.append("launch")
        next(ticks)  # a microsecond passes
        return torch.zeros(())

    timer = ColdTimer(Rotation((launch,)), lambda: next(ticks), others)
    assert timer(2) == pytest.approx(2 * 1.0)
    assert read == ["others", "launch"] * 2


def test_in_step_a_matrix_product_of_as_many_rows_comes_before_each_launch_and_is_not_timed() -> (
    None
):
    nothing, own = torch.zeros(()), CpuBackend(1)
    timer = own.elapsed("cpu_step", (lambda: nothing,), 0, rows=3)
    assert isinstance(timer, ColdTimer)
    assert isinstance(timer.before, Interlude)
    assert timer.before.rows == 3
    begin_s = time.thread_time()
    took_us = timer(20)
    assert took_us < 0.2 * (time.thread_time() - begin_s) * 1e6
    alone = own.elapsed("cpu_step", (lambda: nothing,), 0)
    assert isinstance(alone, ColdTimer)
    assert not isinstance(alone.before, Interlude)


def test_the_tokens_of_a_case_are_its_rows_or_those_of_its_sequences() -> None:
    assert rows_of("linear", Shape("bf16", "", {"rows": 7})) == 7
    assert rows_of("attention_prefill", Shape("bf16", "bf16", {"batch": 2, "chunk": 5})) == 10
    assert rows_of("latent_decode", Shape("bf16", "bf16", {"batch": 4, "context": 9})) == 4
    assert rows_of("rms_norm", Shape("bf16", "", {"rows": 7})) == 0  # its rows rotate instead


def test_cuda_without_a_gpu_is_one_sentence_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(AgentError, match=r"^PyTorch sees no CUDA GPU here; .* --backend cpu$"):
        choose_backend("cuda", 1)
    assert choose_backend("auto", 1).name == "cpu"


def test_cache_and_memory_are_read_as_linux_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = tmp_path / "size"
    monkeypatch.setattr(cpu, "_INDEX3", size)
    assert CpuBackend(1).devices()[0].cache_bytes is None
    size.write_text("32768K\n")
    assert CpuBackend(1).devices()[0].cache_bytes == 32 << 20


def test_reasons_of_a_slow_gpu_have_names_and_idleness_is_none() -> None:
    assert throttle_reasons(0x01) == ()  # idle
    assert throttle_reasons(0x04 | 0x40) == ("hw_thermal_slowdown", "sw_power_cap")


class BridgedPairs:
    """NVML of four GPUs, of which 0-1 and 2-3 have a bridge of two lanes; handles are their numbers."""

    NVMLError = KeyError
    NVML_TOPOLOGY_NODE = 40
    NVML_NVLINK_DEVICE_TYPE_SWITCH = 2

    def nvmlDeviceGetNvLinkState(self, handle: int, lane: int) -> int:  # noqa: N802  # NVML's names
        return {0: 1, 1: 1}[lane]

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, handle: int, lane: int) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetNvLinkRemotePciInfo(self, handle: int, lane: int) -> object:  # noqa: N802
        return self.nvmlDeviceGetPciInfo(handle ^ 1)

    def nvmlDeviceGetPciInfo(self, handle: int) -> object:  # noqa: N802
        return SimpleNamespace(busId=f"0000:{handle}A:00.0".encode())

    def nvmlDeviceGetTopologyCommonAncestor(self, one: int, other: int) -> int:  # noqa: N802
        return 40 if one // 2 != other // 2 else 20


def test_a_bridge_links_two_gpus_and_not_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servecast.agent.nvml.pynvml", BridgedPairs())
    nvml = Nvml(handles=(0, 1, 2, 3))
    assert nvml.link(2, 3) == Link(2, 3, "nvlink", 2)
    assert nvml.link(1, 2) == Link(1, 2, "host")


def test_a_switch_links_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    switched = BridgedPairs()
    monkeypatch.setattr(switched, "nvmlDeviceGetNvLinkRemoteDeviceType", lambda handle, lane: 2)
    monkeypatch.setattr("servecast.agent.nvml.pynvml", switched)
    assert Nvml(handles=(0, 1, 2, 3)).link(0, 3) == Link(0, 3, "nvlink", 2)


PAIRS = (Link(0, 1, "pcie"), Link(0, 2, "host"), Link(0, 3, "nvlink", 4), Link(1, 2, "nvlink", 2))


@pytest.mark.parametrize(
    ("degree", "devices", "kind"), [(1, (0,), ""), (2, (0, 3), "nvlink"), (4, (0, 1, 2, 3), "host")]
)
def test_a_group_takes_the_gpus_that_reach_each_other_best(
    degree: int, devices: tuple[int, ...], kind: str
) -> None:
    assert choose_devices(PAIRS, 4, degree) == devices
    assert slowest_kind(PAIRS, devices) == kind


def test_a_group_is_as_good_as_its_slowest_link() -> None:
    triangle = (Link(0, 1, "nvlink", 18), Link(0, 2, "nvlink", 18), Link(1, 2, "host"))
    line = (Link(1, 3, "pcie"), Link(2, 3, "pcie"), Link(0, 3, "pcie"))
    assert choose_devices((*triangle, *line), 4, 3) == (0, 1, 3)


def test_without_nvml_everything_is_unknown_and_nothing_is_zero() -> None:
    conditions = Nvml().conditions(0)
    assert (conditions.clock_mhz, conditions.power_w, conditions.temperature_c) == (
        None,
        None,
        None,
    )
    assert (Nvml().power_limit_w(0), Nvml().energy_mj(0)) == (None, None)
