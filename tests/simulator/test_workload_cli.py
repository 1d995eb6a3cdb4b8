"""``servecast workload`` as a person and as a script use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from servecast.simulator.cli import cli
from servecast.simulator.commands.workload_show import bars
from servecast.simulator.traffic.kinds import KINDS
from servecast.simulator.traffic.traces import read_trace


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["workload", *arguments])


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Ten requests, the longer ones later and closer together."""
    path = tmp_path / "t.csv"
    rows = "".join(f"{10 * i**0.5},{100 + i},{10 + i}\n" for i in range(10))
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    return str(path)


def test_without_a_subject_it_lists_the_kinds_with_their_sources() -> None:
    assert {row["name"] for row in json.loads(run("--json").stdout)} == set(KINDS)
    shown = run().stdout
    assert all(f"{name}  {kind.says}" in shown for name, kind in KINDS.items())
    assert "Vidur (Agrawal et al., MLSys 2024, table 1)" in shown


def test_a_kind_is_described_and_saved(tmp_path: Path) -> None:
    out = tmp_path / "chat.csv"
    done = run("chat", "--requests", "200", "--rate", "4", "--out", str(out), "--json")
    row = json.loads(done.stdout)
    assert (row["num_requests"], row["rate_per_s"]) == (200, pytest.approx(4))
    assert row["kind"]["source"] == KINDS["chat"].source
    assert done.stderr == f"wrote {out}\n"
    saved = read_trace(out)
    assert saved.prompt_tokens.sum() == row["prompt_tokens"]["total"]


def test_a_trace_is_resampled_scaled_and_sent_at_another_rate(trace: str) -> None:
    asked = ("--resample", "500", "--rate", "3", "--scale-output", "2", "--json")
    row = json.loads(run(trace, *asked).stdout)
    assert (row["num_requests"], row["rate_per_s"]) == (500, pytest.approx(3))
    assert row["output_tokens"]["max"] == 2 * 19
    assert row["prompt_tokens"]["max"] == 109
    assert row["length_correlation"] == pytest.approx(1)


def test_new_arrivals_keep_the_trace_s_rate(trace: str) -> None:
    before = json.loads(run(trace, "--json").stdout)
    after = json.loads(run(trace, "--arrivals", "gamma:cv=0", "--json").stdout)
    assert after["rate_per_s"] == pytest.approx(before["rate_per_s"])
    assert after["gap_cv"] == pytest.approx(0, abs=1e-9)


def test_longer_requests_than_the_context_are_left_out_and_counted(trace: str) -> None:
    row = json.loads(run(trace, "--context", "113", "--json").stdout)
    assert (row["num_requests"], row["num_rejected"]) == (2, 8)


def test_a_person_sees_numbers_and_bars(trace: str) -> None:
    shown = run(trace).stdout
    assert "t.csv: 10 requests over 30 s, 0.3 requests per second" in shown
    assert "rank correlation of the two lengths: 1.00" in " ".join(shown.split())
    assert "█" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chta",), "'chta' is no file and no kind of workload (did you mean 'chat'?); kinds are"),
        (("chat", "--resample", "9"), "chat: --resample is for traces; a kind is drawn anew"),
        (
            ("chat", "--arrivals", "poison"),
            "--arrivals 'poison': no process 'poison' (did you mean",
        ),
        (("chat", "--out", "no/such/folder.csv"), "no/such/folder.csv: cannot be written: No such"),
        (("chat", "--out", "x.jsonl"), "the workload has no prefix blocks; save it as .csv"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_a_figure_is_drawn(tmp_path: Path, trace: str) -> None:
    pytest.importorskip("scienceplots")
    path = tmp_path / "w.svg"
    assert run(trace, "--plot", str(path), "--quiet").exit_code == 0
    assert "share of requests" in path.read_text() or path.stat().st_size > 5_000
    assert "figures are" in run(trace, "--plot", str(tmp_path / "w.txt")).stderr


def test_bars_show_every_count_and_add_up_neighbours() -> None:
    assert bars([0, 1, 8]) == " ▁█"
    assert bars([0, 0, 1000, 1]) == "  █▁"
    assert bars([1, 1, 2, 2], most=2) == "▄█"
