"""What a search holds in memory: a handful of tables, and so much for each configuration that it tells of."""

import gc
import json
import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from servecast.compiler.hardware import Sku
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.simulator.commands.result_files import write_json
from servecast.simulator.search.result import assemble
from servecast.simulator.search.space import Axes
from tests.simulator.invented_search import InventedTimes, question, searching, workload

FEW = Axes(("h100-sxm",), (1,), (1,), tuple(range(32, 132, 4)), (512, 2048))
ROW_BYTES = 12_000
"""More than a configuration takes with what is found of it and its row of the answer."""


class Watched(InventedTimes):
    """Remembers the most of its tables that were alive together."""

    most_alive = 0

    def tables(self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds) -> RuntimeTables:
        made = super().tables(sharded, sku, bounds)
        self._made.append(weakref.ref(made.token_s))
        alive = sum(each() is not None for each in self._made)
        self.most_alive = max(self.most_alive, alive)
        return made

    def __init__(self) -> None:
        super().__init__()
        self._made: list[weakref.ref[Any]] = []


@pytest.mark.parametrize("best_only", [False, True])
def test_tables_alive_do_not_grow_with_the_placements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best_only: bool
) -> None:
    monkeypatch.setattr("servecast.simulator.search.race.KEPT", 2)
    assert most_alive(tmp_path, best_only, ("h100-sxm", "h200-sxm")) == most_alive(
        tmp_path, best_only, ("h100-sxm", "h200-sxm", "b200-sxm", "b300-sxm", "gb200")
    )


def most_alive(folder: Path, best_only: bool, skus: tuple[str, ...]) -> int:
    axes = replace(FEW, skus=skus, tp=(1, 2), max_num_seqs=(64,), max_batched_tokens=(512,))
    loader = Watched()
    searching(
        question(axes),
        folder / "j",
        workload(20),
        loader=loader,
        best_only=best_only,
        judged=False,
    ).run()
    assert len(loader.asked) >= 2 * len(skus)
    return loader.most_alive


def test_pools_of_every_router_share_the_tables_of_their_placement(tmp_path: Path) -> None:
    axes = replace(
        FEW,
        modes=("disaggregated",),
        prefill_skus=("h100-sxm",),
        decode_skus=("a100-sxm-80gb",),
        routers=("least_outstanding", "round_robin"),
    )
    loader = InventedTimes()
    asked = searching(question(axes), tmp_path / "j", loader=loader, judged=False)
    assert len(asked.pairings) == 2
    asked.run()
    assert sorted(loader.asked) == ["a100-sxm-80gb 1", "h100-sxm 1"]


def test_twice_the_configurations_take_a_few_kilobytes_more_each(tmp_path: Path) -> None:
    answer(FEW, tmp_path)  # compiles, and fills what is filled once
    many = replace(FEW, tp=(1, 2))
    of_few, of_many = (held_bytes(partial(answer, axes, tmp_path)) for axes in (FEW, many))
    assert 0 < of_many - of_few < (len(many) - len(FEW)) * ROW_BYTES


def test_an_answer_is_written_piece_by_piece_as_it_would_be_at_once(tmp_path: Path) -> None:
    told, path = answer(FEW, tmp_path), tmp_path / "results.json"
    tracemalloc.start()
    try:
        with path.open("w", encoding="utf-8") as file:
            write_json(told, file)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < path.stat().st_size / 2
    assert path.read_text("utf-8") == json.dumps(told, indent=2, allow_nan=False) + "\n"


def answer(axes: Axes, folder: Path) -> dict[str, Any]:
    asked = searching(question(axes), folder / "j", workload(20), judged=False)
    of: dict[str, Any] = {"of_best": {}, "workload": {}, "question": {}, "provenance": {}}
    return assemble(asked.run(), **of, elapsed_s=0.0)


def held_bytes(make: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        made = make()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        del made
        return held
    finally:
        tracemalloc.stop()
