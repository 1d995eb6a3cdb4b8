"""A program cut for one parallelism: what every rank of every pipeline stage runs.

Pipeline stages get layers by vLLM's rule (vllm/distributed/utils.py, ``get_pp_indices``); the rules
within a stage are in `tensor_parallel.py`, `expert_parallel.py` and `sequence_parallel.py`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from servecast.compiler.attention import Attention
from servecast.compiler.errors import ShardError
from servecast.compiler.expert_parallel import expert_calls
from servecast.compiler.formats import Format
from servecast.compiler.ir import Collective, CollectiveKind, Experts
from servecast.compiler.program import Program, Site, Split
from servecast.compiler.sequence_parallel import scatter_rows
from servecast.compiler.sharded import Call, Parallelism, Run, ShardedProgram, Stage
from servecast.compiler.tensor_parallel import Indivisible, collective_share, operator_share

MAX_TP_TRIED = 64  # when an error lists the degrees that work


def shard(program: Program, parallelism: Parallelism) -> ShardedProgram:
    """What each rank runs. Sharding by 1 changes nothing.

    Raises:
        ShardError: a degree does not divide the model.
    """
    _check_degrees(program, parallelism)
    try:
        prologue, *layers, epilogue = _rank_runs(program, parallelism)
    except Indivisible as error:
        degrees = tp_degrees(program, MAX_TP_TRIED)
        works = f"; tp degrees that work: {', '.join(map(str, degrees))}"
        suffix = "" if parallelism.tp in degrees else works
        raise ShardError(f"{program.model}: {error}{suffix}") from None
    counts = layers_per_stage(program.num_layers, parallelism.pp)
    stages = []
    for index, runs in enumerate(_deal(layers, counts)):
        first, last = index == 0, index == parallelism.pp - 1
        send = Run("send", (_send(program, parallelism),))
        runs = [*([prologue] if first else []), *runs, epilogue if last else send]
        stages.append(Stage(index, tuple(runs)))
    return ShardedProgram(
        program.model,
        program.context_tokens,
        parallelism,
        tuple(stages),
        tuple(_notes(program, parallelism, counts)),
    )


def tp_degrees(program: Program, limit: int) -> list[int]:
    """The tensor-parallel degrees up to ``limit`` that divide the model."""
    return [tp for tp in range(1, limit + 1) if _divides(program, Parallelism(tp=tp))]


def all_degrees(program: Program, limit: int) -> list[Parallelism]:
    """Every way to cut a stage over up to ``limit`` ranks, with a stage border where there can be one.

    Experts are cut over all ranks or dealt to each, as vLLM does, and shared by data-parallel ranks.
    """
    pp = min(2, program.num_layers)
    degrees = [Parallelism(tp=tp, pp=pp) for tp in tp_degrees(program, limit)]
    if not _is_sparse(program):
        return degrees
    for tp, dp in product([each.tp for each in degrees], range(1, limit + 1)):
        for ep in {1, tp * dp} if tp * dp <= limit else ():
            candidate = Parallelism(tp=tp, pp=pp, ep=ep, dp=dp)
            if candidate not in degrees and _divides(program, candidate):
                degrees.append(candidate)
    return sorted(degrees, key=lambda each: (each.tp, each.dp, each.ep))


def _divides(program: Program, parallelism: Parallelism) -> bool:
    try:
        _rank_runs(program, parallelism)
    except Indivisible:
        return False
    return True


def _is_sparse(program: Program) -> bool:
    return any(isinstance(site.op, Experts) for run in program.layers for site in run.sites)


def layers_per_stage(num_layers: int, pp: int) -> list[int]:
    """Layers of each stage; of those left over, the stages before the last get one each."""
    counts = [num_layers // pp] * pp
    for i in range(2, num_layers % pp + 2):
        counts[-i] += 1
    return counts


def _check_degrees(program: Program, parallelism: Parallelism) -> None:
    for name in ("tp", "pp", "ep", "dp"):
        degree = getattr(parallelism, name)
        if degree < 1:
            raise ShardError(f"{program.model}: {name} must be at least 1, got {degree}")
    if parallelism.pp > program.num_layers:
        raise ShardError(
            f"{program.model}: pp {parallelism.pp} exceeds the {program.num_layers} layers; "
            f"pp degrees that work: 1 to {program.num_layers}"
        )
    if not _is_sparse(program) and (parallelism.ep > 1 or parallelism.dp > 1):
        name, degree = ("ep", parallelism.ep) if parallelism.ep > 1 else ("dp", parallelism.dp)
        raise ShardError(
            f"{program.model}: {name} {degree} needs experts, and the model has none; "
            "more of a dense model are replicas"
        )
    if parallelism.tp * parallelism.dp % parallelism.ep:
        ranks = parallelism.tp * parallelism.dp
        raise ShardError(
            f"{program.model}: ep {parallelism.ep} does not divide the {ranks} ranks of tp x dp"
        )


def _send(program: Program, parallelism: Parallelism) -> Call:
    """The residual stream as one row. vLLM sends its two summands, and each rank a share of them."""
    op = Collective(CollectiveKind.SEND, program.hidden, 2, "pp", program.formats.communication)
    factor = 1 / parallelism.tp if parallelism.sequence else 1.0
    return Call("send", op, row_factor=factor)


def _deal(layers: list[Run], counts: list[int]) -> list[list[Run]]:
    """Runs of layers cut at the stages' borders."""
    left = [(run, run.count) for run in layers][::-1]
    stages: list[list[Run]] = []
    for count in counts:
        stage: list[Run] = []
        while count:
            run, available = left.pop()
            taken = min(count, available)
            stage.append(replace(run, count=taken))
            count -= taken
            if taken < available:
                left.append((run, available - taken))
        stages.append(stage)
    return stages


def _rank_runs(program: Program, parallelism: Parallelism) -> list[Run]:
    """What one rank runs of the whole model: prologue, layers, epilogue."""
    communication = program.formats.communication
    runs = []
    for run in program.runs:
        calls = [call for site in run.sites for call in _calls(site, parallelism, communication)]
        runs.append(Run(run.name, tuple(calls), run.count))
    if parallelism.sequence and parallelism.tp > 1:
        gather = Collective(
            CollectiveKind.ALL_GATHER, program.hidden, parallelism.tp, format=communication
        )
        return scatter_rows(runs, gather)
    return runs


def _calls(site: Site, parallelism: Parallelism, communication: Format) -> list[Call]:
    """A rank's share of a site; nothing where a single rank has nothing to say to others."""
    tp = parallelism.tp
    if isinstance(site.op, Experts):
        return expert_calls(site, site.op, parallelism, communication)
    if site.split is Split.JOIN:
        assert isinstance(site.op, Collective)
        joined = collective_share(site.op, tp)
        return [] if joined is None else [Call(site.name, joined, site.rows)]
    if tp == 1 or site.split is Split.WHOLE:
        return [Call(site.name, site.op, site.rows)]
    return [Call(site.name, operator_share(site, tp), site.rows)]


def _notes(program: Program, parallelism: Parallelism, counts: list[int]) -> list[str]:
    notes = []
    kv_heads = sorted(
        {
            site.op.kv_heads
            for run in program.layers
            for site in run.sites
            if isinstance(site.op, Attention) and site.op.kv_heads < parallelism.tp
        }
    )
    for count in kv_heads:
        ranks = parallelism.tp // count
        notes.append(f"{count} KV heads over tp {parallelism.tp}: each is held by {ranks} ranks")
    if len(set(counts)) > 1:
        notes.append(
            f"pp {parallelism.pp} gives uneven stages: {', '.join(map(str, counts))} layers"
        )
    return notes
