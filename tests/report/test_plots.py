"""Figures for print: they are written, repeat to the byte, and can be read without colours."""

from __future__ import annotations

import json
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from servecast.compiler.errors import UserError
from servecast.simulator.report.cli import FIGURES, plot_command

matplotlib = pytest.importorskip("matplotlib", reason="the plot extra is not installed")
plots = pytest.importorskip("servecast.simulator.report.plots", reason="no plot extra")

SHEET = Path(__file__).resolve().parents[2] / "simulator" / "report" / "report.css"

# Machado, Oliveira and Fernandes 2009, table 1, severity 1.0; on linear RGB.
BLINDNESS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
LEAST_DIFFERENCE = 9.0
"""In CIE L*a*b*; 2.3 is just noticeable."""


@pytest.fixture
def source(tmp_path: Path, result: dict[str, Any]) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(result))
    return path


def run(*arguments: str) -> list[Path]:
    outcome = CliRunner().invoke(plot_command, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return [Path(line) for line in outcome.output.splitlines()]


def test_every_figure_is_written(source: Path) -> None:
    paths = run(str(source), "--format", "svg", "-o", str(source.parent / "figures"))
    assert [path.name for path in paths] == [f"{name}.svg" for name in plots.PLOTS]
    assert all("</svg>" in path.read_text() for path in paths)


def test_the_command_offers_exactly_the_figures_there_are() -> None:
    assert tuple(plots.PLOTS) == FIGURES


@pytest.mark.parametrize(
    ("kind", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")]
)
def test_every_format_repeats_to_the_byte(source: Path, kind: str, start: bytes) -> None:
    arguments = (str(source), "--format", kind, "--figure", "heat-map")
    first = run(*arguments)[0].read_bytes()
    assert first.startswith(start)
    assert run(*arguments)[0].read_bytes() == first


def test_each_gpu_has_its_own_marker_and_the_frontier_is_a_line(result: dict[str, Any]) -> None:
    axes = matplotlib.figure.Figure().add_subplot()
    plots.PLOTS["pareto-ttft"](result, axes)
    markers = [line.get_marker() for line in axes.lines]
    assert len(set(markers[:3])) == 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "a100-sxm-80gb",
        "h100-sxm",
        "l40s",
        "frontier",
        "recommended",
    ]


def test_a_result_without_a_recommendation_has_nothing_to_plot(
    source: Path, result: dict[str, Any]
) -> None:
    source.write_text(json.dumps({**result, "best": None, "ranked": []}))
    with pytest.raises(UserError, match=r"results.json: recommends no configuration; there is not"):
        run(str(source))


def test_a_heat_map_of_one_setting_is_refused(source: Path, result: dict[str, Any]) -> None:
    source.write_text(json.dumps({**result, "ranked": result["ranked"][:1]}))
    with pytest.raises(UserError, match=r"tried with one batch setting: no heat map"):
        run(str(source), "--figure", "heat-map")


def test_without_the_extra_the_sentence_says_what_to_install(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "servecast.simulator.report.plots")
    monkeypatch.setitem(sys.modules, "scienceplots", None)
    with pytest.raises(UserError, match=r"need scienceplots, .* pip install 'servecast\[plot\]'"):
        run(str(source))


def lab(colour: str, blindness: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* (D65) of ``#rrggbb`` as seen with a colour blindness."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(blindness @ linear, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    t = to_xyz @ seen / np.array([0.95047, 1.0, 1.08883])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def page_colours() -> list[str]:
    return re.findall(r"\.s\d, \.f\d \{ fill: (#\w{6})", SHEET.read_text())


def print_colours() -> list[str]:
    with matplotlib.style.context(plots.STYLES):
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return [str(matplotlib.colors.to_hex(colour)) for colour in cycle]


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("colours", [page_colours, print_colours])
def test_the_first_six_colours_are_told_apart_with_any_colour_blindness(
    colours: Any, blindness: str
) -> None:
    seen = [lab(colour, BLINDNESS[blindness]) for colour in colours()[:6]]
    assert len(seen) == 6
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > LEAST_DIFFERENCE


def test_the_figures_places_are_json_or_silence_where_asked(source: Path) -> None:
    arguments = [str(source), "--figure", "heat-map", "--format", "svg"]
    outcome = CliRunner().invoke(plot_command, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(outcome.output) == {"figures": [str(source.with_name("heat-map.svg"))]}
    assert CliRunner().invoke(plot_command, [*arguments, "--quiet"]).output == ""


def validation(path: Path, errors: dict[tuple[str, str], tuple[float, float, float]]) -> Path:
    rows = [
        {"metric": metric, "statistic": at, "error": e, "error_low": low, "error_high": high}
        for (metric, at), (e, low, high) in errors.items()
    ]
    path.write_text(json.dumps({"recording": {"path": path.stem}, "comparison": rows}))
    return path


def test_errors_of_workloads_are_marks_with_their_intervals(tmp_path: Path) -> None:
    chat = validation(tmp_path / "chat.json", {("ttft", "p50"): (0.1, -0.1, 0.4)})
    code = validation(tmp_path / "code.json", {("ttft", "p50"): (-0.2, -0.25, -0.1)})
    axes = matplotlib.figure.Figure().add_subplot()
    plots.plot_errors([plots.read_validation(path) for path in (chat, code)], axes)
    (container,) = axes.containers
    assert list(container.lines[0].get_ydata()) == [0.1, -0.2]
    ends = [segment[:, 1].tolist() for segment in container.lines[2][0].get_segments()]
    assert np.allclose(ends, [[-0.1, 0.4], [-0.25, -0.1]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["chat", "code"]


def test_the_figure_of_errors_takes_several_files_and_no_other_figure_does(
    tmp_path: Path, source: Path
) -> None:
    files = [
        str(validation(tmp_path / f"{name}.json", {("e2e", "p90"): (0.0, -0.1, 0.1)}))
        for name in ("a", "b")
    ]
    assert run(*files, "--figure", "errors") == [tmp_path / "errors.pdf"]
    assert (tmp_path / "errors.pdf").read_bytes().startswith(b"%PDF")
    outcome = CliRunner().invoke(plot_command, [str(source), str(source)])
    assert outcome.exit_code == 2
    assert "only --figure errors takes several" in outcome.output
    with pytest.raises(UserError, match="is not what servecast validate --json prints"):
        run(str(source), "--figure", "errors")
