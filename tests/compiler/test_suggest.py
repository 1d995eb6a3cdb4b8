"""What is proposed for a word that is not known."""

import pytest

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.suggest import did_you_mean


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("H100", "h100-sxm"),
        ("h100sxm", "h100-sxm"),
        ("a100", "a100-sxm-80gb"),
        ("A100-80GB", "a100-sxm-80gb"),
        ("A100-SXM", "a100-sxm-80gb"),
        ("B200", "b200-sxm"),  # more letters are those of gb200
        ("L40S", "l40s"),
        ("RTX4090", "rtx-4090"),
        ("h100-smx", "h100-sxm"),
    ],
)
def test_a_gpu_is_found_by_the_names_that_people_call_it(typed: str, meant: str) -> None:
    assert did_you_mean(typed, shipped_skus()) == f" (did you mean {meant!r}?)"


@pytest.mark.parametrize("typed", ["mi300", "", "a", "x" * 61])
def test_what_is_like_nothing_known_is_answered_by_nothing(typed: str) -> None:
    assert did_you_mean(typed, shipped_skus()) == ""


def test_the_same_letters_in_another_case_are_nearer_than_a_part_of_a_name() -> None:
    assert did_you_mean("Chat", ["chat-long", "chat"]) == " (did you mean 'chat'?)"


def test_a_beginning_ends_where_a_part_of_the_name_does() -> None:
    assert did_you_mean("fp", ["fp8_e4m3"]) == ""
    assert did_you_mean("fp8", ["fp8_e4m3"]) == " (did you mean 'fp8_e4m3'?)"
