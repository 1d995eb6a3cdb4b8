"""What `servecast profile` shows in a terminal, and that it shows nothing elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from servecast.compiler.kernels import KernelCase
from servecast.estimator.profiling.collect import Progress
from servecast.estimator.profiling.profile_view import MAX_ROWS, case_text, running_table, shown
from servecast.estimator.profiling.workers import Running

CASE = KernelCase("linear", "bf16", "", (("in_features", 4096), ("rows", 16)))


def drawn(running: dict[str, Running], now_s: float) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(running_table(running, now_s))
    return out.getvalue().splitlines()


def test_each_gpu_that_measures_has_a_line_with_its_case_and_since_when() -> None:
    running = {
        "gpu-2:50051/0": Running("h100-sxm", CASE, since_s=10.0),
        "gpu-1:50051/3": Running("a100-sxm-80gb", CASE, since_s=11.5),
    }
    _, first, second = drawn(running, now_s=12.0)
    assert first.split() == [
        "gpu-1:50051/3", "a100-sxm-80gb", "linear", "bf16", "in_features=4096", "rows=16", "0.5",
    ]  # fmt: skip
    assert second.split()[0] == "gpu-2:50051/0"
    assert second.split()[-1] == "2.0"


def test_a_fleet_larger_than_a_screen_is_counted() -> None:
    running = {f"gpu/{n:03}": Running("cpu", CASE, 0.0) for n in range(MAX_ROWS + 5)}
    lines = drawn(running, now_s=1.0)
    assert len(lines) == 1 + MAX_ROWS + 1
    assert lines[-1].strip() == "and 5 more"


def test_axes_that_are_zero_say_nothing() -> None:
    case = KernelCase("rms_norm", "bf16", "", (("residual", 0), ("rows", 2), ("width", 64)))
    assert case_text(case) == "rms_norm bf16 rows=2 width=64"


def test_a_terminal_shows_how_far_the_run_is_and_what_runs_where() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, legacy_windows=False)
    with shown(console) as show:
        show(Progress(planned=8, measured=3, running={"127.0.0.1:1/0": Running("cpu", CASE, 0.0)}))
    assert "3/8" in out.getvalue()
    assert "127.0.0.1:1/0" in out.getvalue()


def test_a_pipe_gets_no_view() -> None:
    out = io.StringIO()
    with shown(Console(file=out)) as show:
        show(Progress(planned=8, measured=3, running={"127.0.0.1:1/0": Running("cpu", CASE, 0.0)}))
    assert out.getvalue() == ""
