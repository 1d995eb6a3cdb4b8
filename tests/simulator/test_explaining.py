"""Any configuration of an answer explained as its best is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from invented_search import SMALL, InventedTimes, question, workload

from servecast.compiler.errors import UserError
from servecast.compiler.service import Slo
from servecast.simulator.search.explaining import Explaining
from servecast.simulator.search.plan import long_enough
from servecast.simulator.search.pool import Here
from servecast.simulator.search.result import Ranking
from servecast.simulator.search.searching import Means, Searching

ASKED = question(
    replace(
        SMALL,
        skus=("h100-sxm",),
        modes=("aggregated", "disaggregated"),
        prefill_skus=("h100-sxm",),
        decode_skus=("h100-sxm",),
        max_num_seqs=(64,),
    ),
    slos=(Slo("ttft", 90, 0.5), Slo("tbt", 99, 0.1)),
)
TRAFFIC = workload()
EXPLAINING = Explaining(ASKED, TRAFFIC, InventedTimes())


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Ranking:
    tokens = TRAFFIC.mean_sequence_tokens
    journal = tmp_path_factory.mktemp("explaining") / "search.jsonl"
    means = Means(InventedTimes(), Here, lambda *_: None, journal)
    demand = ASKED.demand(TRAFFIC, long_enough(TRAFFIC, ASKED.seed))
    apart = ASKED.pairings(tokens).kept
    return Searching(ASKED, ASKED.space(tokens), demand, means, apart).run()


def test_the_best_is_explained_as_its_answer_has_it(ranking: Ranking) -> None:
    best = ranking.ranked[0]
    found = EXPLAINING.explanation(best)
    assert found == {"qps": best["qps"], "binds": best["binds"], **(ranking.explanation or {})}


@pytest.mark.parametrize("mode", ["aggregated", "disaggregated"])
def test_any_other_is_explained_in_full(mode: str, ranking: Ranking) -> None:
    row = [row for row in ranking.ranked if row["mode"] == mode][-1]
    found = EXPLAINING.explanation(row)
    assert (found["qps"], found["binds"]) == (row["qps"], row["binds"])
    assert sum(found["gpu_time"].values()) == pytest.approx(1)
    assert sum(found["request_time"].values()) == pytest.approx(1)
    assert ("transfer" in found["request_time"]) == (mode == "disaggregated")
    inputs = [price["input"] for price in found["shadow_prices"]]
    assert inputs == ["ttft p90", "tbt p99", "GPU memory", "prefix-cache hits"]
    assert all(price["qps"] >= 0 for price in found["shadow_prices"])


def test_a_configuration_that_is_not_in_the_space_is_refused(ranking: Ranking) -> None:
    with pytest.raises(UserError, match=r"^l40s tp=1 pp=1 is not in the space that the search's"):
        EXPLAINING.explanation({**ranking.ranked[0], "sku": "l40s", "tp": 1, "pp": 1})
