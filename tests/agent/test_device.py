"""What an agent says of its devices, without a GPU."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from servecast.agent import cpu
from servecast.agent.cpu import CpuBackend
from servecast.agent.device import SKU_BY_DEVICE_NAME, choose_backend, sku_of
from servecast.agent.nvml import Nvml, throttle_reasons
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


def test_without_nvml_everything_is_unknown_and_nothing_is_zero() -> None:
    conditions = Nvml().conditions(0)
    assert (conditions.clock_mhz, conditions.power_w, conditions.temperature_c) == (
        None,
        None,
        None,
    )
    assert (Nvml().power_limit_w(0), Nvml().energy_mj(0)) == (None, None)
