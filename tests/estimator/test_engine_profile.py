"""Engine profiles: a version's own terms, each with its source, and whose kernels they ask for."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from servecast.compiler.errors import UserError
from servecast.estimator.engine_profile import (
    ENGINE_PROFILES,
    EngineProfile,
    profile_json,
    profile_of,
    read_profile,
)
from servecast.estimator.sources import sources_for


@pytest.mark.parametrize(
    ("engine", "version", "name"),
    [
        ("vllm", "0.6.0", "vllm-0.6"),
        ("vllm", "0.7.3", "vllm-0.6"),
        ("vllm", "0.11.2", "vllm-0.12"),  # engine V1, as 0.12
        ("vllm", "0.12.0", "vllm-0.12"),
        ("vllm", "0.22.1rc0", "vllm-0.19"),
        ("vllm", "0.5", "vllm-0.6"),  # older than all: the oldest
        ("vllm", "", "vllm-0.23"),
        ("vllm", "nightly", "vllm-0.23"),
        ("sglang", "0.5.10.post1", "sglang-0.5"),
        ("trtllm", "1.2.0rc6.post2", "trtllm-1.0"),
    ],
)
def test_a_version_is_served_by_the_newest_profile_that_is_not_newer(
    engine: str, version: str, name: str
) -> None:
    assert profile_of(engine, version).name == name


def test_an_unknown_engine_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        UserError, match=r"^no profile of engine 'vlm' \(did you mean 'vllm'\?\); there"
    ):
        profile_of("vlm")


@pytest.mark.parametrize("profile", ENGINE_PROFILES.values(), ids=lambda p: p.name)
def test_every_default_that_does_something_has_its_source(profile: EngineProfile) -> None:
    nothing = EngineProfile("nothing", 0.0, 0.0, ())
    different = {
        f.name for f in fields(profile) if getattr(profile, f.name) != getattr(nothing, f.name)
    }
    assert different - {"name", "sources"} <= set(profile.sources)


def test_a_term_that_is_given_carries_its_own_source() -> None:
    profile = profile_of("vllm", "0.19").given("the log", host_step_s=0.01, client_s=0.002)
    assert (profile.host_step_s, profile.client_s) == (0.01, 0.002)
    assert (profile.sources["host_step_s"], profile.sources["client_s"]) == ("the log", "the log")
    assert profile.sources["capture_sizes"].startswith("vllm/")


def test_an_engines_own_kernels_are_asked_for_before_the_common_ones() -> None:
    asked = ("agent", "silicon", "vidur")
    assert sources_for(asked, "sglang") == ("agent", "silicon_sglang", "silicon", "vidur")
    assert sources_for(asked, "vllm") == asked
    assert sources_for(("vidur",), "sglang") == ("vidur",)


ODD: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    2.5,
    float("nan"),
    "",
    "x",
    [],
    [0],
    [8, 4],
    [True],
    {},
    {"a": 1},
)


def test_the_host_is_as_measured_but_where_scheduling_ahead_hides_it() -> None:
    """A recording or an option may tell another way of scheduling than the version's default."""
    waiting, ahead = ENGINE_PROFILES["vllm-0.12"], ENGINE_PROFILES["vllm-0.19"]
    assert "measured" in waiting.sources["host_step_s"]
    assert waiting.host_step_s > ahead.host_step_s
    for profile, other in ((waiting, ahead), (ahead, waiting)):
        told = profile.scheduling("the log", other.async_scheduling)
        assert told.async_scheduling == other.async_scheduling
        assert told.sources["async_scheduling"] == "the log"
        assert (told.host_step_s, told.host_per_sequence_s) == (
            other.host_step_s,
            other.host_per_sequence_s,
        )
        assert told.sources["host_step_s"] == other.sources["host_step_s"]


def test_told_what_it_is_anyway_a_profile_keeps_its_calibrated_host() -> None:
    calibrated = ENGINE_PROFILES["vllm-0.19"].given("calibrated", host_step_s=0.001)
    assert calibrated.scheduling("the log", True).host_step_s == 0.001


def test_whatever_a_profile_from_a_file_holds_it_is_one_or_refused_in_one_sentence(
    tmp_path: Path,
) -> None:
    path = tmp_path / "engine.json"
    good = json.loads(profile_json(ENGINE_PROFILES["vllm-0.19"]))
    for name in good:
        for odd in ODD:
            path.write_text(json.dumps({**good, name: odd}))
            told = read_or_refused(path)
            if isinstance(told, str):
                assert told.startswith(f"{path}: "), told
            else:
                assert {type(n) for n in told.capture_sizes} <= {int}
                assert told.sources["host_step_s"]


def read_or_refused(path: Path) -> EngineProfile | str:
    try:
        return read_profile(path)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"host_step_s": True}, "host_step_s True must be a number of 0 or more"),
        ({"capture_sizes": [8, 4]}, "capture_sizes must rise"),
        ({"receive_every_steps": 0}, "are numbers of 1 or more, not 0"),
        ({"async_scheduling": "no"}, "async_scheduling 'no' must be true or false"),
        ({"kernels": 3}, "kernels 3 must be text"),
        ({"sources": {}}, "sources must tell at least where host_step_s comes from"),
    ],
)
def test_a_wrong_term_of_a_profile_is_named(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    path = tmp_path / "engine.json"
    good = json.loads(profile_json(ENGINE_PROFILES["vllm-0.19"]))
    path.write_text(json.dumps({**good, **changed}))
    with pytest.raises(UserError, match=re.escape(message)):
        read_profile(path)
