"""When two nodes of one SKU are said to disagree."""

from __future__ import annotations

from servecast.agent.stopping import Statistics
from servecast.compiler.kernels import KernelCase
from servecast.estimator.profiling.cross_check import Check, cases_to_check, disagreements

CASE = KernelCase("linear", "bf16", "", (("rows", 4),))


def check(who: str, median_us: float, std_us: float = 0.1, sku: str = "h100-sxm") -> Check:
    statistics = Statistics(100, median_us, std_us, median_us, median_us, median_us)
    return Check(who, sku, CASE, statistics)


def test_a_node_that_is_ten_percent_slower_is_reported_in_words() -> None:
    found = disagreements([check("a/0", 10.0), check("b/0", 11.0)])
    assert [str(each) for each in found] == [
        "h100-sxm: linear (rows 4) takes 11.0 us on b/0 and 10.0 us on a/0, 10% more"
    ]


def test_nodes_within_five_percent_agree() -> None:
    assert disagreements([check("a/0", 10.0), check("b/0", 10.4)]) == []


def test_noise_explains_a_difference_that_it_could_have_made() -> None:
    assert disagreements([check("a/0", 10.0, std_us=30.0), check("b/0", 12.0, std_us=30.0)]) == []


def test_nodes_of_different_skus_are_not_compared() -> None:
    assert disagreements([check("a/0", 10.0), check("b/0", 20.0, sku="a100-sxm-80gb")]) == []


def test_checked_cases_are_spread_over_the_plan_and_never_collectives() -> None:
    cases = [KernelCase("linear", "bf16", "", (("rows", n),)) for n in range(1, 10)]
    pair = KernelCase("send", "bf16", "", (("degree", 2), ("payload_bytes", 4)))
    assert cases_to_check([*cases, pair], 3) == [cases[0], cases[3], cases[6]]
    assert cases_to_check([pair], 3) == []
