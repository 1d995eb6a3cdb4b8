"""What holds for every shipped model at every degree that divides it."""

from __future__ import annotations

from pathlib import Path

import pytest

from servecast.compiler.attention import Attention, DeltaAttention
from servecast.compiler.ir import (
    Collective,
    Embedding,
    Experts,
    Linear,
    Norm,
    Operator,
    SequenceOperator,
)
from servecast.compiler.load import load_spec
from servecast.compiler.program import Program, Site, Split
from servecast.compiler.shard import shard, tp_degrees
from servecast.compiler.sharded import Parallelism, Rows

SPECS = sorted(path for path in (Path(__file__).parents[2] / "spec").glob("*.llm"))
PROGRAMS = [program for path in SPECS for program in load_spec(path).models.values()]
CASES = [(program, tp) for program in PROGRAMS for tp in tp_degrees(program, 16)]


def name_case(value: object) -> str | None:
    return value.model if isinstance(value, Program) else None


def pairs(program: Program, tp: int) -> list[tuple[Site, Operator]]:
    """Each site with a rank's share of it; collectives of a single rank are not there."""
    (stage,) = shard(program, Parallelism(tp=tp)).stages
    sites = [site for run in program.runs for site in run.sites]
    if tp == 1:
        sites = [site for site in sites if site.split is not Split.JOIN]
    calls = [call for run in stage.runs for call in run.calls]
    assert [site.name for site in sites] == [call.name for call in calls]
    return [(site, call.op) for site, call in zip(sites, calls, strict=True)]


def replicates(site: Site, tp: int) -> bool:
    """KV heads that ranks exceed, and vocabularies that do not divide, cost more than a share."""
    attention = site.op if isinstance(site.op, Attention) else site.feeds
    if isinstance(attention, Attention) and attention.kv_heads < tp:
        return True
    vocab = site.op.vocab if isinstance(site.op, Embedding) else 0
    if isinstance(site.op, Linear) and site.rows is Rows.LAST_TOKENS:
        vocab = site.op.out_features
    return bool(vocab % tp)


def work(op: Operator) -> int:
    if isinstance(op, DeltaAttention):
        return op.flops(3)
    return op.flops(7, 3) if isinstance(op, SequenceOperator) else op.flops(5)


@pytest.mark.parametrize(("program", "tp"), CASES, ids=name_case)
def test_ranks_do_the_whole_work_and_hold_the_whole_model(program: Program, tp: int) -> None:
    for site, share in pairs(program, tp):
        if isinstance(share, Collective) or replicates(site, tp):
            continue
        if site.split is Split.WHOLE:
            assert share == site.op
        elif site.name != "rotary_emb":  # a latent's rotary key is turned by every rank
            assert work(share) * tp == work(site.op), site.name
            if isinstance(share, (Linear, Experts, Embedding)) and not has_bias(share):
                assert share.parameters * tp == site.op.parameters, site.name


def has_bias(op: Linear | Experts | Embedding) -> bool:
    """A bias of a layer split by rows is held by every rank."""
    return not isinstance(op, Embedding) and op.bias


@pytest.mark.parametrize("program", PROGRAMS, ids=name_case)
def test_every_sum_over_ranks_is_joined_in_its_layer(program: Program) -> None:
    for run in program.runs:
        splits = [site.split for site in run.sites]
        for i, split in enumerate(splits):
            assert split is not Split.ROWS or Split.JOIN in splits[i:], run.sites[i].name


@pytest.mark.parametrize("program", PROGRAMS, ids=name_case)
def test_sequence_parallelism_leaves_no_norm_of_whole_rows_to_every_rank(program: Program) -> None:
    tp = 2 if 2 in tp_degrees(program, 2) else 1
    sharded = shard(program, Parallelism(tp=tp, sequence=True))
    calls = [call for stage in sharded.stages for run in stage.runs for call in run.calls]
    norms = [c for c in calls if isinstance(c.op, Norm) and c.op.width == program.hidden]
    assert {call.row_factor for call in norms} == {1 / tp}
    assert not [c for c in calls if "all_reduce" in c.name]
