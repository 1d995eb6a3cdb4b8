"""KV below the GPU's memory: what goes there, what comes back and when, worked by hand; and its options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from engine_cases import prefix_case, tables_of
from test_engine import times
from test_prefix_cache import hit_tokens, prompts
from test_simulate_pools import PREFILL

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import UserError
from servecast.estimator.load import TableLoader
from servecast.simulator.cli import cli
from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.engine.kv_tiers import AskedTier, KvTier, parse_kv_tier
from servecast.simulator.engine.modes import Modes
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.routing import Fleet, simulate
from servecast.simulator.simulate import simulate_setup
from servecast.simulator.traffic.workload import PrefixBlocks, Workload

HOST = KvTier("host", 10, block_s=0.5, latency_s=1.0)
LIMITS = EngineLimits(max_num_seqs=8, max_batched_tokens=32, block_tokens=4, kv_blocks=4)
ROWS = ((0, 1, [1, 2, 3]), (20, 1, [5, 6]), (40, 1, [1, 2, 8, 9]), (60, 1, [5, 6, 7]))


def run(*tiers: KvTier) -> Records:
    """One second a token, four blocks of four."""
    fleet = Fleet(tables_of(), LIMITS, modes=Modes(tiers=tiers))
    return simulate(prompts(*ROWS), fleet, compiled=False)


def test_what_the_gpu_dropped_is_loaded_and_not_computed() -> None:
    """B at 20 takes block 3 of A, C at 40 finds 1 and 2 and takes both of B's. 60: D's first two blocks come
    back in 1 + 2 x 0.5 s, its third takes four: 66. Without a tier it computes twelve, until 72."""
    records = run(HOST)
    assert hit_tokens(records) == [0, 0, 8, 8]
    assert times(records) == [[12], [28], [48], [66]]
    assert records.modes["tiers"] == {"hit_tokens": {"host": 8}, "load_s": 2.0}
    assert times(run())[3] == [72]


def test_a_full_tier_drops_what_came_first_and_the_next_one_takes_it() -> None:
    """The host has room for one. A's third block goes on when B's second comes, that one when B's first
    does: the disk has B's second then, and D waits 1 + 0.5 s for the host and 2 + 3 s for the disk."""
    small = replace(HOST, blocks=1)
    assert hit_tokens(run(small)) == [0, 0, 8, 4]
    assert times(run(small))[3] == [60 + 1.5 + 8]
    records = run(small, KvTier("disk", 1, block_s=3.0, latency_s=2.0))
    assert hit_tokens(records) == [0, 0, 8, 8]
    assert times(records)[3] == [60 + 1.5 + 5 + 4]
    assert records.modes["tiers"]["hit_tokens"] == {"host": 4, "disk": 4}


def test_where_nothing_is_evicted_tiers_change_nothing() -> None:
    for seed in range(15):
        workload, fleet = prefix_case(seed)
        roomy = replace(fleet, limits=replace(fleet.limits, kv_blocks=10_000))
        below = replace(roomy, modes=Modes(tiers=(HOST,)))
        assert times(simulate(workload, below)) == times(simulate(workload, roomy))


def test_every_request_is_served_and_more_is_found() -> None:
    found = {False: 0, True: 0}
    for seed in range(25):
        workload, fleet = prefix_case(seed)
        for with_tiers in found:
            tiers = (KvTier("host", 8, 0.1), KvTier("disk", 8, 0.3)) if with_tiers else ()
            records = simulate(workload, replace(fleet, modes=Modes(tiers=tiers)))
            assert (records.finished | records.rejected).all()
            assert records.prefix_hit_tokens is not None
            found[with_tiers] += int(records.prefix_hit_tokens.sum())
    assert found[True] > found[False]


def shared(count: int = 12) -> Workload:
    """Three prompts of 512 tokens by turns, a second apart."""
    ids = np.concatenate([np.arange(32) + 100 * (i % 3) for i in range(count)])
    prefix = PrefixBlocks(16, np.arange(count + 1) * 32, ids)
    lengths = np.full(count, 512), np.full(count, 2)
    return Workload("by turns", np.arange(count, dtype=float), *lengths, prefix=prefix)


def test_a_tier_in_bytes_holds_blocks_of_the_model() -> None:
    """A block of llama-3.1-8b has 16 x 131,072 bytes: a GB is 476 of them, each 0.2 ms at 10 GB/s."""
    tier = parse_kv_tier("name=host,gb=1,gb_per_s=10,ms=0.5").tier(16 * 131_072)
    assert (tier.name, tier.blocks, tier.latency_s) == ("host", 476, 0.0005)
    assert tier.block_s == pytest.approx(16 * 131_072 / 10e9)


def test_a_simulated_setup_counts_what_each_tier_brought() -> None:
    """Room for one prompt and a half: from the fourth on, all but a prompt's last 16 tokens are found."""
    setup = replace(PREFILL, kv_blocks=48, kv_tiers=(AskedTier("host", 1e9, 50e9),))
    loader = TableLoader(None, sources=())
    warm, cold = (
        simulate_setup(replace(setup, kv_tiers=tiers), shipped_skus(), shared(), loader).summary
        for tiers in (setup.kv_tiers, ())
    )
    assert warm["prefix_hit_rate"] == pytest.approx(9 * 496 / (12 * 512))
    assert cold["prefix_hit_rate"] < warm["prefix_hit_rate"]
    assert 0 < warm["modes"]["tiers"]["hit_tokens"]["host"] <= 9 * 496


def test_tiers_without_a_prefix_cache_are_refused() -> None:
    setup = replace(PREFILL, kv_tiers=(AskedTier("host", 1e9, 50e9),))
    plain = replace(shared(), prefix=None)
    with pytest.raises(UserError, match="kv_tiers without prefix_caching"):
        simulate_setup(setup, shipped_skus(), plain, TableLoader(None, sources=()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gb=1,gb_per_s=5", "KV tier 'gb=1,gb_per_s=5': say name="),
        ("name=host,gb=1", "say gb_per_s="),
        ("name=host,gb=1,gb_per_s=0", "KV tier 'host': gb_per_s must be above 0"),
        ("name=host,gb=one,gb_per_s=5", "gb must be a number, got 'one'"),
        ("name=host,room=1,gb_per_s=5", "'room=1' is not one of name="),
    ],
)
def test_a_tier_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_kv_tier(text)


def test_a_tier_without_room_for_a_block_is_refused() -> None:
    with pytest.raises(UserError, match="'host' of 0 blocks"):
        AskedTier("host", 1e5, 1e9).tier(2e6)


def test_tiers_of_pools_apart_are_refused_by_both_names() -> None:
    options = ["--kv-tier", "name=host,gb=1,gb_per_s=5", "--mode", "disaggregated"]
    command = ["simulate", "spec/llama.llm", "--trace", "spec/traces/chat.csv", *options]
    assert "--kv-tier with --mode disaggregated" in CliRunner().invoke(cli, command).output
