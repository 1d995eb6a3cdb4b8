"""All-reduces between measured sizes: one algorithm's times say nothing of the next one's."""

from __future__ import annotations

import numpy as np
import pytest

from servecast.estimator.collective_times import KIB, MIB, algorithm_starts, between_sizes

SIZES = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
SECONDS = np.array([11.0, 12.0, 14.0, 48.0, 56.0])  # 10 + size below 8, 40 + size from there on


def test_each_algorithm_goes_on_by_its_own_line_up_to_the_switch() -> None:
    found = between_sizes(SIZES, SECONDS, np.array([6.0, 7.999, 8.0, 12.0]), starts=(8,))
    assert found[:3] == pytest.approx([16.0, 18.0, 48.0], rel=1e-3)
    assert 52.0 < found[3] < 52.54  # between the line and the power law


def test_a_switch_to_a_size_not_measured_is_read_backwards() -> None:
    found = between_sizes(SIZES[[0, 1, 3, 4]], SECONDS[[0, 1, 3, 4]], np.array([4.0]), starts=(3,))
    assert found == pytest.approx([44.0])


def test_no_line_is_steeper_than_proportion() -> None:
    """Backwards a steep line would go below zero; forwards it would outrun the link."""
    steep = between_sizes(np.array([8.0, 16.0]), np.array([10.0, 40.0]), np.array([8.0, 4.0]), (2,))
    assert steep == pytest.approx([10.0, 10.0])
    ahead = between_sizes(
        np.array([1.0, 2.0, 16.0, 32.0]), np.array([1.0, 4.0, 90.0, 99.0]), np.array([4.0]), (8,)
    )
    assert ahead == pytest.approx([8.0])


def test_an_algorithm_of_one_size_is_read_off_its_neighbours() -> None:
    alone = between_sizes(SIZES[:4], SECONDS[:4], np.array([6.0]), starts=(8,))
    assert alone == pytest.approx([16.0])
    beyond = between_sizes(SIZES[:4], SECONDS[:4], np.array([32.0, 0.5]), starts=(8,))
    assert beyond == pytest.approx([4 * 48.0, 11.0])


def test_switches_are_those_of_the_engine_by_chip_and_degree() -> None:
    assert algorithm_starts("a100-sxm-80gb", "all_reduce", 2) == (8 * MIB,)
    assert algorithm_starts("a100-sxm-80gb", "all_reduce", 8) == (256 * KIB, 8 * MIB)
    assert algorithm_starts("h100-sxm", "all_reduce", 4) == (512 * KIB, 8 * MIB, 32 * MIB + 1)
    assert algorithm_starts("b200-sxm", "all_reduce", 8) == (256 * KIB, MIB, 128 * MIB + 1)
    assert algorithm_starts("h100-sxm", "all_gather", 8) == ()
