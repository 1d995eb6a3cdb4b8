"""SGLang's scheduler: longest cached prefix first, admission by estimated outputs, retraction."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from servecast.simulator.engine.scheduling import Job
from servecast.simulator.reference.block_scheduler import BlockScheduler, SchedulerLimits

CLIP_MAX_NEW_TOKENS = 4096  # SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
INIT_NEW_TOKEN_RATIO = 0.7  # SGLANG_INIT_NEW_TOKEN_RATIO
MIN_RATIO_FACTOR = 0.14  # SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR
RATIO_DECAY_STEPS = 600  # SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS
RETRACT_DECODE_STEPS = 20  # SGLANG_RETRACT_DECODE_STEPS
LPM_MAX_WAITING = 128  # beyond it the longest match costs too much, and arrival order is used


class PrefixCache:
    """The prompts' blocks by id: SGLang's radix tree, least recently used leaves out first.

    A block is a page of the tree, as large as the trace's hashes are (SGLang's ``page_size`` is one token by
    default): what prompts share beyond their last equal block counts as their own. An id names a block
    together with all before it, so a cached one implies its prefix, and ids are the tree. A prefix is used
    whenever its end is, and a moment later: so what goes first is always a leaf. Blocks of running requests
    stay. SOURCE: sgl-project/sglang 0.4, python/sglang/srt/mem_cache/radix_cache.py (RadixCache.evict).
    """

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.users: dict[int, int] = {}  # running requests of each block
        self.num_unused = 0
        self._used_at: dict[int, int] = {}  # counted by uses
        self._uses = 0
        self._idle: list[tuple[int, int]] = []  # a heap of uses and blocks, some used again since

    def match(self, prefix: Sequence[int]) -> int:
        """How many of the blocks, from the beginning, are cached."""
        return next((n for n, block in enumerate(prefix) if block not in self.users), len(prefix))

    def hold(self, blocks: Sequence[int]) -> int:
        """Keep these while a request runs; how many were not cached."""
        fresh = sum(block not in self.users for block in blocks)
        for block in reversed(blocks):  # the first is the last to go
            self.num_unused -= self.users.get(block) == 0
            self.users[block] = self.users.get(block, 0) + 1
            self._uses += 1
            self._used_at[block] = self._uses
        return fresh

    def let_go(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self.users[block] -= 1
            if self.users[block] == 0:
                self.num_unused += 1
                heappush(self._idle, (self._used_at[block], block))

    def evict(self, tokens: int) -> int:
        """Drop unused blocks until so many tokens are free, or none is left; the tokens freed."""
        freed = 0
        while freed < tokens and self._idle:
            used_at, block = heappop(self._idle)
            if self._used_at.get(block) == used_at and self.users[block] == 0:
                del self.users[block], self._used_at[block]
                self.num_unused -= 1
                freed += self.block_tokens
        return freed

    def unused(self, blocks: Sequence[int]) -> int:
        """How many of these cached blocks no running request holds."""
        return sum(self.users[block] == 0 for block in blocks)

    @property
    def unused_tokens(self) -> int:
        return self.num_unused * self.block_tokens


class SGLang(BlockScheduler):
    """Prompts first, the one with the longest cached prefix before the others; then a token of every job.

    A prompt is admitted if it and what all jobs are expected to emit fit: a share of the declared output,
    the "new token ratio", which falls a little with each step of decodes. If they find no memory after all,
    the jobs with the fewest tokens are retracted (restarted) until twenty steps fit, and the ratio follows
    what outputs are. ``mixed_chunk`` 1 lets running jobs decode beside a prompt; ``conservativeness`` scales
    the ratio. A prompt over the budget is cut, and goes on before others. Memory is counted in tokens.

    SOURCE: sgl-project/sglang 0.4, python/sglang/srt/managers/schedule_policy.py (SchedulePolicy,
    PrefillAdder), schedule_batch.py (retract_decode), scheduler.py (get_next_batch_to_run); Zheng et al.
    2024. Its check for common prefixes among the waiting is left out.
    """

    def __init__(
        self, limits: SchedulerLimits, *, mixed_chunk: int = 0, conservativeness: float = 1.0
    ) -> None:
        super().__init__(limits)
        self.free_tokens = limits.kv_blocks * limits.block_tokens
        self.cache = PrefixCache(limits.prefix_block_tokens)
        self.mixed = bool(mixed_chunk)
        self.ratio = min(INIT_NEW_TOKEN_RATIO * conservativeness, 1.0)
        self.least_ratio = self.ratio * MIN_RATIO_FACTOR
        self.decay = (self.ratio - self.least_ratio) / RATIO_DECAY_STEPS
        self.own: dict[Job, int] = {}  # tokens that a running job does not share
        self.shared: dict[Job, tuple[int, ...]] = {}
        self.partial: Job | None = None

    def servable(self, job: Job) -> bool:
        return True

    def can_serve(self, prompt_tokens: int, output_tokens: int) -> bool:
        declared = min(self.limits.declared_output_tokens, CLIP_MAX_NEW_TOKENS)
        most = prompt_tokens + max(output_tokens, declared)
        return most < self.limits.kv_blocks * self.limits.block_tokens

    def next_batch(self) -> list[tuple[Job, int]]:
        left = self.limits.max_batched_tokens - (len(self.running) if self.mixed else 0)
        batch = self._prefills(left)
        if self.mixed or not batch:
            batch += self._decodes()
        self.free = self.free_tokens // self.limits.block_tokens
        return batch

    def end_batch(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.prefix and job.prefilled and len(self.shared[job]) < self._whole_blocks(job):
                self._share(job)
            if job.finished:
                self._drop(job)
            elif job is not self.partial:
                self.running.append(job)
        self.free = self.free_tokens // self.limits.block_tokens

    def _prefills(self, left: int) -> list[tuple[Job, int]]:
        """Chunks of the prompt under way and of those admitted, within ``left`` tokens."""
        batch: list[tuple[Job, int]] = []
        if not self.waiting and self.partial is None:
            return batch
        expected = self.ratio * sum(self._declared_left(job) for job in self.running)
        if self.partial is not None:
            job = self.partial
            left -= self._add_chunk(batch, job, min(left, int(self.available)))
            expected += 0 if self.partial else self._declared_left(job)
        for job in self._by_longest_prefix():
            if left <= 0 or self.partial or len(self.own) >= self.limits.max_num_seqs:
                break
            cached = self._cached_blocks(job)
            extend = job.prefill_tokens - cached * self.cache.block_tokens
            # What is cached and unused is counted as free; held by this job it is not.
            kept = self.cache.unused(job.prefix[:cached]) * self.cache.block_tokens
            if extend + self._declared_left(job) >= self.available - kept - expected:
                break
            self.waiting.remove(job)
            self.shared[job] = job.prefix[:cached]
            self.cache.hold(self.shared[job])
            self.own[job] = 0
            job.processed = cached * self.cache.block_tokens
            left -= self._add_chunk(batch, job, left)
            expected += 0 if self.partial else self._declared_left(job)
        return batch

    def _add_chunk(self, batch: list[tuple[Job, int]], job: Job, most: int) -> int:
        """Put what there is room for of the prompt into the batch; the rest makes it the partial."""
        chunk = min(job.prefill_left, most)
        if chunk > 0:
            self._allocate(job, chunk)
            batch.append((job, chunk))
        self.partial = job if chunk < job.prefill_left else None
        return max(chunk, 0)

    def _by_longest_prefix(self) -> list[Job]:
        if len(self.waiting) > LPM_MAX_WAITING:
            return list(self.waiting)
        return sorted(
            self.waiting, key=self._cached_blocks, reverse=True
        )  # stable: then by arrival

    def _decodes(self) -> list[tuple[Job, int]]:
        if len(self.running) > self.available:
            self._retract()
        elif self.running:
            self.ratio = max(self.ratio - self.decay, self.least_ratio)
        batch = [(job, 1) for job in self.running]
        for job in self.running:
            self._allocate(job, 1)
        self.running = []
        return batch

    def _retract(self) -> None:
        """Restart the jobs with the fewest tokens until the others have room for some steps."""
        self.running.sort(key=lambda job: (job.emitted, -job.prefill_tokens), reverse=True)
        while len(self.running) > 1:
            job = self.running.pop()
            self._drop(job)
            job.restart()
            self.waiting.append(job)
            if self.available >= len(self.running) * RETRACT_DECODE_STEPS:
                break
        emitted = sum(job.emitted + RETRACT_DECODE_STEPS for job in self.running)
        declared = self.limits.declared_output_tokens * len(self.running)
        self.ratio = min(emitted / declared, 1.0)

    @property
    def available(self) -> int:
        return self.free_tokens + self.cache.unused_tokens

    def _declared_left(self, job: Job) -> int:
        declared = self.limits.declared_output_tokens - job.emitted
        return max(min(declared, CLIP_MAX_NEW_TOKENS), 0)

    def _allocate(self, job: Job, tokens: int) -> None:
        if self.free_tokens < tokens:
            self.free_tokens += self.cache.evict(tokens - self.free_tokens)
        self.free_tokens -= tokens
        self.own[job] += tokens

    def _whole_blocks(self, job: Job) -> int:
        return min(len(job.prefix), job.prefill_tokens // self.cache.block_tokens)

    def _cached_blocks(self, job: Job) -> int:
        """Never all of a prompt: its last token has to be computed."""
        most = (job.prefill_tokens - 1) // self.cache.block_tokens
        return min(self.cache.match(job.prefix), most)

    def _share(self, job: Job) -> None:
        """The whole blocks of a prompt that is computed become part of the cache."""
        rest = job.prefix[len(self.shared[job]) : self._whole_blocks(job)]
        fresh = self.cache.hold(rest)
        self.shared[job] += rest
        self.own[job] -= len(rest) * self.cache.block_tokens
        self.free_tokens += (len(rest) - fresh) * self.cache.block_tokens

    def _drop(self, job: Job) -> None:
        """Its own tokens are free; those that it shared stay cached."""
        self.cache.let_go(self.shared.pop(job))
        self.free_tokens += self.own.pop(job)
