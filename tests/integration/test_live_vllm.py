"""The comparison with a real vLLM on this processor: its judgement always, the engine where there is one."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from engine_cases import tables_of
from pages import documented

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Engine, Fleet
from servecast.simulator.reference.reference import simulate_reference

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def live() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return import_module("live_vllm")


@pytest.fixture(scope="module")
def verdict(live: ModuleType) -> ModuleType:
    return import_module("live_verdict")


@pytest.fixture(scope="module")
def prediction(live: ModuleType) -> ModuleType:
    return import_module("live_prediction")


@pytest.fixture(scope="module")
def clocks() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return import_module("live_clock")


def judged(
    slower: float = 0.0, stolen: float = 0.0, nearest: float = 0.0, busy: float = 1.0
) -> dict[str, Any]:
    """What a comparison found, as far as the machine is concerned. One repeat of three may lie far off."""
    floor = {"ttft p50": [0.01, 0.02], "e2e p90": [nearest, 0.3]}
    runs = [{"name": "open 60%", "stolen": stolen, "floor": floor}]
    return {"slower": slower, "busy": busy, "runs": runs}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (judged(), []),
        (judged(slower=0.21), ["fixed work took up to 21% longer than at another time"]),
        (judged(busy=9.0), ["9 programs wanted the processor"]),
        (judged(stolen=0.04), ["open 60%: others had 4% of the processor"]),
        (judged(nearest=0.12), ["open 60%: no two repeats are within 12% in e2e p90"]),
    ],
)
def test_a_machine_that_was_not_quiet_is_told_by_what_it_did(
    verdict: ModuleType, found: dict[str, Any], why: list[str]
) -> None:
    assert verdict.rejections(found) == why


class Machine:
    """Passes time by hand; its fixed work takes what it is told to."""

    def __init__(self) -> None:
        self.at_s, self.work_s = 0.0, 0.01

    def work(self) -> float:
        self.at_s += self.work_s
        return self.work_s


def test_a_machine_half_as_fast_passes_half_the_seconds_and_being_gauged_takes_none(
    clocks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    monkeypatch.setattr("time.thread_time", lambda: machine.at_s)
    clock = clocks.Clock(lambda: machine.at_s, False, machine.work, reference_s=0.01)
    machine.at_s += 2.0
    assert clock() == pytest.approx(2.0)
    machine.work_s = 0.02
    for _ in range(clocks.GAUGES):
        clock.gauge()  # looks, as GAUGE_S have passed
        machine.at_s += clocks.GAUGE_S
    passed = 2.0 + clocks.GAUGE_S * (2 + 1 / 2 * 3)  # the median of five looks turns with the third
    assert clock() == pytest.approx(passed)
    clock.wait_until(passed + 1.0)
    assert clock() == pytest.approx(passed + 1.0)
    machine.at_s += 3.0
    assert clock() == pytest.approx(passed + 1.0 + 1.5)
    assert clock.slowness == pytest.approx([1.0] * clocks.GAUGES + [2.0] * clocks.GAUGES)


def result(
    step_mape: float, error: float, farthest: float = 0.02, moves: float = 0.03
) -> dict[str, Any]:
    """Of one run, all its statistics alike; of three repeats the farthest from their median, and how far
    predictions move.
    """
    names = [f"{metric} {p}" for metric in ("ttft", "tpot", "e2e") for p in ("p50", "p90")]
    latencies = {n: {"error": error} for n in names}
    floor = {n: [0.01, farthest] for n in names}
    judged_by = {"floor": floor, "moves": dict.fromkeys(names, moves)}
    return {"name": "r", "step_mape": step_mape, "latencies": latencies, **judged_by}


def test_errors_within_a_tenth_pass_and_larger_ones_are_named(verdict: ModuleType) -> None:
    assert verdict.too_far([result(0.09, -0.09)]) == []
    assert verdict.too_far([result(0.11, 0.0)]) == ["r: step times by 11.0%"]
    assert verdict.too_far([result(0.0, -0.2)])[0] == "r: ttft p50 by -20.0%"


@pytest.mark.parametrize("error", [0.0, -0.2])
@pytest.mark.parametrize(("farthest", "moves"), [(0.16, 0.03), (0.02, 0.12)])
def test_repeats_or_predictions_that_lie_a_tenth_apart_decide_nothing_whatever_the_error(
    verdict: ModuleType, error: float, farthest: float, moves: float
) -> None:
    restless = [result(0.0, error, farthest, moves)]
    assert verdict.too_far(restless) == []
    assert len(verdict.not_decided(restless)) == 6
    assert verdict.not_decided(restless)[0] == (
        f"r: ttft p50, a repeat is {farthest:.1%} from the median, predictions move by {moves:.1%}"
    )
    assert verdict.not_decided([result(0.0, error, farthest=0.1)]) == []


def told(prompt: int, scale: float) -> dict[str, Any]:
    """One request of a prompt and two tokens: times grow by ``scale``."""
    steps = [
        {"begin_s": 0.0, "end_s": scale * 0.002, "tokens": {"0": prompt}},
        {"begin_s": scale * 0.002, "end_s": scale * 0.003, "tokens": {"0": 1}},
    ]
    times = {"sent_s": [0.0], "first_s": [scale * 0.002], "finish_s": [scale * 0.003]}
    return {"steps": steps, **times}


class Perfect:
    """Predicts what the engine does at a scale of one."""

    def __init__(self, prediction: ModuleType) -> None:
        self.prediction = prediction

    def steps_s(self, run: object, steps: list[dict[str, Any]]) -> list[float]:
        return [0.002, 0.001]

    def run(self, run: Any) -> Records:
        limits = EngineLimits(max_num_seqs=4, max_batched_tokens=16, kv_blocks=100)
        fleet = Fleet(tables_of(rng=np.random.default_rng(0)), limits)
        return Engine().run(self.prediction.workload_of(run), fleet).copy()


def test_a_run_counts_by_the_median_of_its_repeats_and_tells_how_far_they_lie(
    live: ModuleType, prediction: ModuleType
) -> None:
    run = prediction.Run("r", ((0.0, 8, 2),))
    repeats = [told(8, scale) for scale in (1.0, 1.5, 0.9)]
    found = live.errors_of(run, Perfect(prediction), repeats)
    assert found["latencies"]["e2e p50"]["measured_s"] == pytest.approx(0.003)
    assert found["floor"]["e2e p50"] == pytest.approx([0.1, 0.5])
    assert found["steps"] == 6
    assert found["step_mape"] == pytest.approx((0 + 1 / 3 + 1 / 9) / 3)


def test_times_that_follow_the_steps_move_as_they_do(prediction: ModuleType) -> None:
    run = prediction.Run("r", ((0.0, 8, 3), (0.0, 4, 5)))
    moves = prediction.Predictor.moves(Perfect(prediction), run)
    assert list(moves.values()) == pytest.approx([0.025] * 6)


def test_a_statistic_moves_farther_where_a_request_comes_just_after_another_has_left(
    prediction: ModuleType,
) -> None:
    """On a slower machine it meets that one, and waits for the step."""
    perfect, first = Perfect(prediction), (0.0, 8, 9)
    left_s = float(perfect.run(prediction.Run("r", (first,))).finish_s[0])
    far, near = (
        prediction.Predictor.moves(perfect, prediction.Run("r", (first, (times * left_s, 16, 2))))
        for times in (2.0, 1.01)
    )
    assert far["ttft p90"] == pytest.approx(0.025)
    assert near["ttft p90"] > 0.05


@pytest.mark.parametrize(
    ("moves", "chosen"),
    [([0.3, 0.12, 0.09, 0.01], 2), ([0.3, 0.12] + [0.2] * 58, 1)],
    ids=["the first within the limit", "of none the least"],
)
def test_the_first_trace_that_can_judge_a_prediction_is_taken(
    prediction: ModuleType, moves: list[float], chosen: int
) -> None:
    left = iter(moves)

    class Told:
        def moves(self, run: object) -> dict[str, float]:
            return {"ttft p50": 0.0, "e2e p90": next(left)}

    found = prediction.steady(Told(), "a", 1.0, 5, 23)
    assert found == prediction.opened("a", 1.0, 5, f"23.{chosen}")


def test_a_step_is_told_by_its_decodes_or_by_the_tokens_of_one_with_a_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    kind = import_module("live_steps").kind
    assert kind({"tokens": {"0": 1, "1": 1, "2": 1}}) == ("decodes", 3)
    assert kind({"tokens": {"0": 1, "1": 130}}) == ("tokens", 128)
    assert kind({"tokens": {"0": 63}}) == ("tokens", 0)


class Kernels:
    """Predicts a millisecond for every step."""

    def steps_s(self, run: object, steps: list[dict[str, Any]]) -> list[float]:
        return [0.001] * len(steps)


def took(tokens: dict[str, int], beside_s: float) -> dict[str, Any]:
    return {"begin_s": 5.0, "end_s": 5.001 + beside_s, "tokens": tokens}


def rounds_of(*each: list[dict[str, Any]]) -> list[list[tuple[None, dict[str, Any]]]]:
    return [[(None, {"steps": [*steps, took({}, 9.0)]})] for steps in each]


def decodes(beside_s: float, per_sequence_s: float, times: int = 5) -> list[dict[str, Any]]:
    """A round of steps that decode 1 to 8 sequences, so many of each."""
    batches = [{str(i): 1 for i in range(n)} for n in (1, 2, 4, 8) for _ in range(times)]
    return [took(batch, beside_s + per_sequence_s * len(batch)) for batch in batches]


def test_host_terms_are_what_decodes_take_beside_their_kernels(prediction: ModuleType) -> None:
    """A step that takes in a request has no say, nor has a number of sequences that was seen but once."""
    others = [took({"0": 64, "1": 1}, 0.5), took({str(i): 1 for i in range(6)}, 0.5)]
    found = prediction.host_profile(Kernels(), rounds_of([*decodes(0.004, 50e-6), *others]))
    assert found.host_step_s == pytest.approx(0.004)
    assert found.host_per_sequence_s == pytest.approx(50e-6)
    assert found.sources["host_step_s"] == "measured here, on the host probe"


def test_a_restless_round_of_three_has_no_say_in_the_host_terms(prediction: ModuleType) -> None:
    rounds = rounds_of(decodes(0.004, 50e-6), decodes(0.0, 0.0), decodes(0.004, 50e-6))
    found = prediction.host_profile(Kernels(), rounds)
    assert found.host_step_s == pytest.approx(0.004)


def test_neither_host_term_takes_time_away(prediction: ModuleType) -> None:
    """Were larger batches faster, all would take as long."""
    found = prediction.host_profile(Kernels(), rounds_of(decodes(0.004, -50e-6)))
    assert found.host_per_sequence_s == 0.0
    assert 0.0036 < found.host_step_s < 0.00395
    found = prediction.host_profile(Kernels(), rounds_of(decodes(-0.001 + 1e-5, 1e-3)))
    assert found.host_step_s == 0.0
    assert 0 < found.host_per_sequence_s < 1e-3


def test_every_round_of_the_probe_has_as_many_loops_of_few_clients_as_of_many(
    prediction: ModuleType,
) -> None:
    rounds = prediction.probe_rounds()
    assert [run.concurrency for run in rounds[0]] == [1, 2, 3, 4, 6, 8, 12, 16]
    assert len({run.requests for each in rounds for run in each}) == 8 * len(rounds)


@pytest.mark.parametrize("seed", range(5))
def test_the_simulators_own_batches_take_what_it_says_that_they_take(
    prediction: ModuleType, seed: int
) -> None:
    limits = EngineLimits(max_num_seqs=4, max_batched_tokens=16, kv_blocks=100)
    fleet = Fleet(tables_of(rng=np.random.default_rng(seed)), limits)
    rng = random.Random(seed)
    requests = tuple((0.0, rng.randint(1, 40), rng.randint(1, 9)) for _ in range(7))
    run = prediction.Run("r", requests)
    simulated = simulate_reference(prediction.workload_of(run), fleet)
    number = {id(request): i for i, request in enumerate(simulated.requests)}
    steps = [
        {"tokens": {str(number[id(r)]): n for r, n in step.scheduled.items()}}
        for step in simulated.steps
    ]
    took_s = [step.end_s - step.start_s for step in simulated.steps]
    assert list(prediction.batches_s(fleet, run, steps)) == pytest.approx(took_s)


def test_a_run_is_the_same_every_time_and_another_load_is_the_same_requests_closer_together(
    prediction: ModuleType,
) -> None:
    slow, fast = prediction.opened("a", 1.0, 20), prediction.opened("a", 4.0, 20)
    assert slow == prediction.opened("a", 1.0, 20)
    assert [r[1:] for r in slow.requests] == [r[1:] for r in fast.requests]
    assert slow.requests[-1][0] == pytest.approx(4 * fast.requests[-1][0])


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The documentation's short comparison with the real engine."""
    if not os.environ.get("SERVECAST_VLLM_PYTHON"):
        pytest.skip(
            "SERVECAST_VLLM_PYTHON names no Python with vLLM: no prediction met a real engine"
        )
    folder = tmp_path_factory.mktemp("live")
    (folder / "benchmarks").symlink_to(BENCHMARKS)
    words = shlex.split(documented("live-vllm.md", "python benchmarks/live_vllm.py"))
    command = [sys.executable, *words[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1, 3), done.stderr[-2000:]
    found: dict[str, Any] = json.loads((folder / "live" / "live.json").read_text())
    predicted = json.loads((folder / "live" / "predicted.json").read_text())
    told = {"predicted": predicted, "returncode": done.returncode, "folder": folder}
    return found | told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_predictions_were_written_before_the_engine_ran(compared: dict[str, Any]) -> None:
    assert compared["predicted"]["at_s"] < compared["measured_at_s"]
    assert [run["name"] for run in compared["runs"]] == list(compared["predicted"]["runs"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_engine_steps_as_predicted(compared: dict[str, Any]) -> None:
    if compared["rejected"]:
        pytest.skip(f"this machine was not quiet: {'; '.join(compared['rejected'])}")
    told = 1 if compared["too_far"] else 3 * bool(compared["not_decided"])
    assert compared["returncode"] == told
    assert compared["probe_mape"]["held out"] < 0.10
    for run in compared["runs"]:
        assert run["step_mape"] < 0.10, run["name"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kernels_are_told_as_a_step_and_as_the_agent_times_them(compared: dict[str, Any]) -> None:
    command = documented("live-vllm.md", "PYTHONPATH=live/links")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=compared["folder"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["host-probe,", "4", "rows", "in", "a", "step", "agent", "error"]
    assert len(rows) == 6
    for row in rows:
        _, in_step_us, _, said_us, _, error = row.split()
        expected = float(said_us) / float(in_step_us) - 1
        assert float(error.rstrip("%")) / 100 == pytest.approx(expected, abs=1e-2)
