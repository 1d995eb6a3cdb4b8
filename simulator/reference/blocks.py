"""The reference's requests and KV blocks as objects: who holds a block, how a prefix cache finds it again.

SOURCE: vllm/v1/core/block_pool.py and kv_cache_manager.py (0.32).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from servecast.simulator.engine.deployment import EngineLimits
from servecast.simulator.reference.tiers import ReferenceTiers
from servecast.simulator.traffic.workload import Workload


@dataclass(slots=True, eq=False)
class ReferenceBlock:
    references: int = 0  # requests that hold it
    hash: Hashable = None  # by which its contents can be found, if they can


@dataclass(slots=True, eq=False)
class ReferenceRequest:
    arrival_s: float
    known: int  # tokens: prompt and emitted
    total: int  # tokens when it is finished
    key: int
    loaded: int = 0  # of them, those whose KV is there at the first admission
    hashes: list[Hashable] = field(default_factory=list)  # of the prompt's full blocks
    blocks: list[ReferenceBlock] = field(default_factory=list)  # that it holds
    why: int = 0  # it is not served: `state.TURNED_AWAY`, `GAVE_UP`, …
    hit: int = 0  # tokens found in the prefix cache at the first admission
    computed: int = 0  # tokens whose KV is cached, or will be by the batches in flight
    in_flight: int = 0  # batches
    expected: int = 0  # tokens that batches in flight will bring, where scheduling counts on them
    decoding: bool = False
    drafts: Iterator[tuple[int, int]] | None = None  # drafted and accepted, of steps to come
    next_draft: tuple[int, int] | None = None
    drafted: bool = False  # its last batch held a draft, if there is a drafter
    scheduled_s: float = float("nan")
    preemptions: int = 0
    place: int = 0  # among those that are served
    tokens: int = 0  # of its prompt
    prefill: int = 0  # tokens that it had when it was admitted; 0: it waits
    client: int = 0
    priority: int = 0
    retries: int = 0  # times that it was sent again because its replica was lost
    replica: int = 0
    token_s: list[float] = field(default_factory=list)
    token_steps: list[tuple[int, int]] = field(default_factory=list)  # replica, and its step

    @property
    def prompt(self) -> int:
        """What its prefill computes: tokens that came out since do not count until it starts again."""
        return self.prefill or self.known

    @property
    def first_token_s(self) -> float:
        return self.token_s[0] if self.token_s else float("nan")

    @property
    def gone(self) -> bool:
        return self.why > 0

    def draft(self) -> int:
        """Tokens that the drafter proposes for its next step."""
        if self.drafts is None:
            return 0
        if self.next_draft is None:
            self.next_draft = next(self.drafts)
        return self.next_draft[0]

    def gain(self, scheduled: int) -> int:
        """Tokens that come out of a batch with so many of it."""
        if not self.drafted or self.next_draft is None:
            return 1
        accepted = min(self.next_draft[1], scheduled - 1)
        self.next_draft = None
        return 1 + accepted

    def emit(self, tokens: int, at_s: float, step: tuple[int, int]) -> None:
        self.known += tokens
        self.token_s += [at_s] * tokens
        self.token_steps += [step] * tokens

    def start_again(self) -> None:
        """It has no KV any more: prompt and tokens that came out are to be computed."""
        self.prefill = 0
        self.computed, self.expected, self.decoding = 0, 0, False

    def hash(self, k: int) -> Hashable:
        """Of its block k; what it writes itself, nobody else has."""
        return self.hashes[k] if k < len(self.hashes) else (self, k)


class ReferenceBlocks:
    """All KV blocks of a replica."""

    def __init__(
        self, limits: EngineLimits, caching: bool, below: ReferenceTiers | None = None
    ) -> None:
        self.block_tokens, self.total, self.caching = limits.block_tokens, limits.kv_blocks, caching
        self.free = deque(ReferenceBlock() for _ in range(limits.kv_blocks))  # next to take first
        self.cached: dict[Hashable, list[ReferenceBlock]] = {}  # equal ones, the oldest first
        self.below = below or ReferenceTiers(())

    def count(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def fits(self, request: ReferenceRequest, tokens: int) -> bool:
        """So many tokens, those that it has included."""
        return self.count(tokens) - len(request.blocks) <= len(self.free)

    def take(self, request: ReferenceRequest, tokens: int) -> None:
        """Blocks for so many tokens, those that it has included."""
        while len(request.blocks) < self.count(tokens):
            block = self.free.popleft()
            if block.hash is not None:
                self.cached[block.hash].remove(block)
                if not self.cached[block.hash]:
                    self.below.keep(block.hash)
            block.references, block.hash = 1, None
            request.blocks.append(block)

    def remember(self, request: ReferenceRequest, tokens: int) -> None:
        """Its full blocks up to so many tokens can be found from now on."""
        first = full = tokens // self.block_tokens if self.caching else 0
        while first > 0 and request.blocks[first - 1].hash is None:  # the ones before were found so
            first -= 1
        for k in range(first, full):
            request.blocks[k].hash = request.hash(k)
            self.cached.setdefault(request.hash(k), []).append(request.blocks[k])

    def find(self, request: ReferenceRequest) -> list[ReferenceBlock]:
        """The cached blocks that it begins with; its last token is always computed."""
        found: list[ReferenceBlock] = []
        for k in range((request.known - 1) // self.block_tokens if self.caching else 0):
            if not self.cached.get(request.hash(k)):
                break
            found.append(self.cached[request.hash(k)][0])
        return found

    def find_below(self, request: ReferenceRequest, found: int) -> list[Hashable]:
        """Of its blocks behind the first so many, those that a tier has, up to the first that none has."""
        hashes: list[Hashable] = []
        for k in range(found, (request.known - 1) // self.block_tokens if self.caching else 0):
            if self.below.find(request.hash(k)) is None:
                break
            hashes.append(request.hash(k))
        return hashes

    def adopt(self, request: ReferenceRequest, hits: list[ReferenceBlock]) -> None:
        for block in hits:
            if block.references == 0:
                self.free.remove(block)
            block.references += 1
        request.blocks = hits

    def release(self, request: ReferenceRequest) -> None:
        """Its last block goes first; what nothing can find is taken again before all others."""
        for block in reversed(request.blocks):
            block.references -= 1
            if block.references == 0:
                (self.free.appendleft if block.hash is None else self.free.append)(block)
        request.blocks = []


def prompt_hashes(workload: Workload, i: int, block_tokens: int) -> list[Hashable]:
    """Of prompt i's full blocks, as far as the workload has ids: all ids up to the block's end."""
    if workload.prefix is None:
        return []
    begin, end = workload.prefix.offsets[i : i + 2].tolist()
    ids, theirs = workload.prefix.ids[begin:end].tolist(), workload.prefix.block_tokens
    ends = range(block_tokens, int(workload.prompt_tokens[i]) + 1, block_tokens)
    return [(at, *ids[: -(-at // theirs)]) for at in ends if at <= len(ids) * theirs]
