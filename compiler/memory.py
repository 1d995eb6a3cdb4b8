"""What one rank holds, term by term, and the KV blocks that fit beside it as vLLM would report them.

vLLM fills ``utilisation`` of the GPU: weights, the peak of a profiling step and what libraries
allocate while it runs come off, the rest is cache (vllm/v1/worker/gpu_worker.py,
``determine_available_memory``). The CUDA context, NCCL's buffers and captured graphs are not counted
there and live in the headroom above it; where they do not fit in it, they eat into the cache. (From
0.21 on vLLM also takes its own estimate of the graphs off, unless it is told not to.)
"""

from __future__ import annotations

from dataclasses import dataclass

from servecast.compiler.attention import Attention, DeltaAttention, LatentAttention
from servecast.compiler.formats import BF16
from servecast.compiler.ir import (
    Collective,
    Experts,
    KvWrite,
    Linear,
    Norm,
    Sample,
)
from servecast.compiler.sharded import Call, Rows, ShardedProgram, Stage

# Bytes per logit at the peak of a sampling step: the bf16 logits, their fp32 copy, and a sort's
# values and int64 indices twice, as result and as workspace (vllm/v1/sample/ops/topk_topp_sampler.py).
SAMPLER_BYTES_PER_LOGIT = 2 + 4 + 2 * (4 + 8)
# cuBLAS and attention workspaces and lazily loaded kernels: what appears during profiling, in vLLM's
# logs the "non-torch memory", 0.07 to 0.25 GiB.
LIBRARY_BYTES = 150 * 10**6
# A CUDA context with PyTorch's kernels, outside every allocator.
CUDA_CONTEXT_BYTES = 500 * 10**6
# One captured batch size of one layer: vLLM logged 0.65 GiB for 34 layers and 67 sizes
# (gemma-3-4b on a B200, vllm-project/vllm pull request 21489).
GRAPH_BYTES_PER_LAYER = 300 * 1024
# NCCL channels plus the custom all-reduce's buffers, per group a rank is in.
COLLECTIVE_BUFFER_BYTES = 300 * 10**6


@dataclass(frozen=True, slots=True)
class KvLayers:
    """Cache of the layers that see the same number of tokens; ``window`` None: all of them."""

    bytes_per_token: int
    window: int | None
    num_layers: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """One rank of the fullest stage. ``kv_blocks`` is 0 where nothing is left for the cache.

    ``sequence_tokens`` is the length that requests grow to: layers with a window keep no more of it
    than the window, so a block of a long sequence costs less. None counts windows as full layers,
    which no length exceeds. ``pinned_kv_blocks`` stands for a count that an engine has logged.
    """

    stage: int
    total_bytes: int
    utilisation: float
    weight_bytes: int
    activation_bytes: int
    sampler_bytes: int
    library_bytes: int
    cuda_context_bytes: int
    graph_bytes: int
    collective_bytes: int
    state_bytes: int
    kv_layers: tuple[KvLayers, ...]
    block_tokens: int
    sequence_tokens: int | None = None
    pinned_kv_blocks: int | None = None

    @property
    def kv_bytes_per_block(self) -> int:
        """Bytes that a block of ``block_tokens`` takes in all layers, on average over a sequence."""
        if self.sequence_tokens is None:
            return self.block_tokens * max(1, sum(part.bytes_per_token for part in self.kv_layers))
        blocks = -(-self.sequence_tokens // self.block_tokens)
        return max(1, -(-self.kv_bytes(blocks * self.block_tokens) // blocks))

    @property
    def hybrid_blocks(self) -> tuple[int, int]:
        """The blocks that vLLM's hybrid manager logs, and how many of them hold the same tokens.

        It deals layers of one kind to groups of equal size, and a block serves one group
        (vllm/v1/core/kv_cache_utils.py): the groups are as large as the rarest kind has layers, or as
        the commonest where that is less than a quarter more. Without windows there is one group.
        """
        counts = [part.num_layers for part in self.kv_layers]
        size = max(counts) if 4 * max(counts) < 5 * min(counts) else min(counts)
        groups = sum(-(-count // size) for count in counts)
        per_layer = self.kv_layers[0].bytes_per_token // self.kv_layers[0].num_layers
        blocks = max(0, self.kv_budget_bytes) // (size * per_layer * self.block_tokens)
        return blocks, groups

    def kv_bytes(self, tokens: int) -> int:
        """Cache bytes of one sequence of so many tokens; a window is rounded up to whole blocks."""
        kept = 0
        for part in self.kv_layers:
            window = tokens if part.window is None else part.window + self.block_tokens
            kept += min(tokens, window) * part.bytes_per_token
        return kept

    @property
    def terms(self) -> tuple[tuple[str, int], ...]:
        """Everything but the cache, by name."""
        return (
            ("weights", self.weight_bytes),
            ("activations", self.activation_bytes),
            ("sampler", self.sampler_bytes),
            ("libraries", self.library_bytes),
            ("CUDA context", self.cuda_context_bytes),
            ("graphs", self.graph_bytes),
            ("collective buffers", self.collective_bytes),
            *((("states of linear attention", self.state_bytes),) if self.state_bytes else ()),
        )

    @property
    def kv_budget_bytes(self) -> int:
        """Left for the cache; negative where the model does not fit."""
        inside = self.weight_bytes + self._peak_bytes + self.library_bytes + self.state_bytes
        outside = self.cuda_context_bytes + self.graph_bytes + self.collective_bytes
        budget = int(self.total_bytes * self.utilisation)
        return min(budget, self.total_bytes - outside) - inside

    @property
    def _peak_bytes(self) -> int:
        """Layers and sampler run one after the other."""
        return max(self.activation_bytes, self.sampler_bytes)

    @property
    def kv_blocks(self) -> int:
        if self.pinned_kv_blocks is not None:
            return self.pinned_kv_blocks
        return max(0, self.kv_budget_bytes // self.kv_bytes_per_block)

    @property
    def missing_bytes(self) -> int:
        """How much too small the GPU is for a single KV block; 0 where one fits."""
        return max(0, self.kv_bytes_per_block - self.kv_budget_bytes)


def plan_memory(
    sharded: ShardedProgram,
    sku_memory_bytes: int,
    utilisation: float,
    max_batched_tokens: int,
    max_num_seqs: int,
    block_tokens: int = 16,
) -> MemoryPlan:
    """The memory of the stage that leaves the fewest KV blocks; every stage gets as many."""
    plans = [
        MemoryPlan(
            stage=stage.index,
            total_bytes=sku_memory_bytes,
            utilisation=utilisation,
            weight_bytes=stage.weight_bytes,
            activation_bytes=_activation_bytes(stage, max_batched_tokens),
            sampler_bytes=_sampler_bytes(stage, max_num_seqs),
            library_bytes=LIBRARY_BYTES,
            cuda_context_bytes=CUDA_CONTEXT_BYTES,
            graph_bytes=_graph_bytes(stage, max_num_seqs),
            collective_bytes=_collective_bytes(sharded),
            state_bytes=max_num_seqs * _sequence_state_bytes(stage),
            kv_layers=_kv_layers(stage),
            block_tokens=block_tokens,
        )
        for stage in sharded.stages
    ]
    return min(plans, key=lambda plan: (plan.kv_budget_bytes / plan.kv_bytes_per_block, plan.stage))


def _kv_layers(stage: Stage) -> tuple[KvLayers, ...]:
    kinds: dict[int | None, KvLayers] = {}
    for run in stage.runs:
        for call in run.calls:
            if isinstance(call.op, Attention | LatentAttention):
                window = call.op.window if isinstance(call.op, Attention) else None
                before = kinds.get(window, KvLayers(0, window, 0))
                size = before.bytes_per_token + run.count * call.op.kv_bytes_per_token
                kinds[window] = KvLayers(size, window, before.num_layers + run.count)
    return tuple(kinds.values())


def _sequence_state_bytes(stage: Stage) -> int:
    """Of linear attention, which every running sequence keeps at full size from its first token on."""
    runs = [(run.count, call.op) for run in stage.runs for call in run.calls]
    return sum(count * op.state_bytes for count, op in runs if isinstance(op, DeltaAttention))


def _calls(stage: Stage) -> list[Call]:
    return [call for run in stage.runs for call in run.calls]


def _activation_bytes(stage: Stage, tokens: int) -> int:
    """The widest operator's input and output, with the residual stream and one copy of it."""
    rows = max(round(_row_bytes(call) * call.row_factor) for call in _calls(stage))
    hidden = max((c.op.width for c in _calls(stage) if isinstance(c.op, Norm)), default=0)
    return tokens * (rows + BF16.num_bytes(2 * hidden))


def _row_bytes(call: Call) -> int:
    """Numbers that an operator reads and writes for one token, in bytes."""
    op = call.op
    match op:
        case Collective() | Attention() | LatentAttention() | DeltaAttention():
            return 0
        case Sample() | KvWrite():
            return 0
        case Linear() if call.rows is not Rows.TOKENS:
            return 0  # the head: few rows, counted with the sampler
        case Experts():
            up = op.intermediate * (2 if op.activation.gated else 1)
            width = op.hidden + up + op.intermediate + op.hidden
            return BF16.num_bytes(op.top_k * width)
        case Linear():
            return BF16.num_bytes(op.in_features + op.out_features)
        case _:
            return op.moved_bytes(1) - (0 if op.parameters == 0 else op.weight_bytes)


def _sampler_bytes(stage: Stage, max_num_seqs: int) -> int:
    vocabs = [call.op.vocab for call in _calls(stage) if isinstance(call.op, Sample)]
    return sum(vocabs) * max_num_seqs * SAMPLER_BYTES_PER_LOGIT


def _graph_bytes(stage: Stage, max_num_seqs: int) -> int:
    """vLLM captures batch sizes 1, 2, 4 and every 8 up to 256, every 16 up to 512."""
    largest = min(2 * max_num_seqs, 512)
    sizes = 3 + min(largest, 256) // 8 + max(0, largest - 256) // 16
    layers = sum(run.count for run in stage.runs)
    return sizes * layers * GRAPH_BYTES_PER_LAYER


def _collective_bytes(sharded: ShardedProgram) -> int:
    parallelism = sharded.parallelism
    groups = sum(degree > 1 for degree in (parallelism.tp, parallelism.pp, parallelism.ep))
    return groups * COLLECTIVE_BUFFER_BYTES
