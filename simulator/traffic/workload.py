"""The traffic: when requests arrive and how many tokens each one brings and asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from servecast.compiler.errors import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row of a trace that is not a request, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class TraceOrigin:
    """The file a workload was read from: the line of each request [requests], and what was left out."""

    path: str
    format: str
    line: Ints
    rejected: tuple[RejectedRow, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class PrefixBlocks:
    """Which prompts share a prefix: equal ids at equal places are equal blocks of ``block_tokens``.

    The ids of request ``i`` are ``ids[offsets[i]:offsets[i + 1]]``; the last block may be partial.
    """

    block_tokens: int
    offsets: Ints
    ids: Ints

    def take(self, index: Ints) -> PrefixBlocks:
        """The blocks of the requests at ``index``, in that order."""
        sizes = np.diff(self.offsets)[index]
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        return replace(
            self, offsets=offsets, ids=self.ids[np.repeat(self.offsets[index], sizes) + within]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Requests in arrival order. Arrays of shape [requests]: float64 seconds from 0, int64 tokens.

    Where the trace says so: who sent it (``client``), which conversation it belongs to (``session``), and how
    urgent it is (``priority``, 0 first); small numbers from 0.

    Raises:
        UserError: no request, a time that goes back, a prompt or an output without a token.
    """

    name: str
    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    origin: TraceOrigin | None = None
    prefix: PrefixBlocks | None = None
    client: Ints | None = None
    session: Ints | None = None
    priority: Ints | None = None

    def __post_init__(self) -> None:
        if not len(self.arrival_s) == len(self.prompt_tokens) == len(self.output_tokens):
            raise ValueError(f"{self.name}: arrivals and lengths differ in number")
        if len(self) == 0:
            raise UserError(f"{self.name}: no requests; a workload needs at least one")
        self._refuse(~np.isfinite(self.arrival_s) | (self.arrival_s < 0), "arrives at", "arrival_s")
        self._refuse(self.prompt_tokens < 1, "has a prompt of", "prompt_tokens")
        self._refuse(self.output_tokens < 1, "has an output of", "output_tokens")
        back = np.flatnonzero(np.diff(self.arrival_s) < 0)
        if len(back):
            raise UserError(f"{self.where(int(back[0]) + 1)}: arrives before the request above it")

    def _refuse(self, bad: NDArray[np.bool_], claim: str, field: str) -> None:
        if bad.any():
            i = int(np.argmax(bad))
            least = "0 or more, in seconds" if field == "arrival_s" else "1 token or more"
            value = getattr(self, field)[i]
            raise UserError(f"{self.where(i)}: {claim} {value}; {field} must be {least}")

    def __len__(self) -> int:
        return len(self.arrival_s)

    def where(self, index: int) -> str:
        """How a message names one request: file and line, or its number."""
        if self.origin is None:
            return f"{self.name}: request {index}"
        return f"{self.origin.path}:{self.origin.line[index]}"

    @property
    def span_s(self) -> float:
        """From the first arrival to the last."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def rate_per_s(self) -> float:
        """Requests per second over the span of the arrivals.

        Raises:
            UserError: all requests arrive at one instant, which is no rate.
        """
        if self.span_s == 0:
            raise UserError(
                f"{self.name}: {len(self)} request(s) at one instant have no rate; "
                f"give a trace that spans some time{self._left_out()}"
            )
        return (len(self) - 1) / self.span_s

    def _left_out(self) -> str:
        if self.origin is None or not self.origin.rejected:
            return ""
        rows, first = len(self.origin.rejected), self.origin.rejected[0]
        return f" ({rows} row(s) were left out: on line {first.line}, {first.reason})"

    @property
    def mean_sequence_tokens(self) -> int:
        """The mean length, prompt and output, that a request grows to."""
        return round(float((self.prompt_tokens + self.output_tokens).mean()))

    def at_rate(self, rate_per_s: float) -> Workload:
        """The same requests in the same pattern, arriving at another mean rate."""
        if not 0 < rate_per_s < np.inf:
            raise UserError(f"{self.name}: rate {rate_per_s:g} must be above 0 requests per second")
        return replace(self, arrival_s=self.arrival_s * (self.rate_per_s / rate_per_s))

    def take(self, index: Ints, arrival_s: Floats) -> Workload:
        """The requests at ``index``, arriving at ``arrival_s``; what else is known of them goes along."""
        return Workload(
            name=self.name,
            arrival_s=arrival_s,
            prompt_tokens=self.prompt_tokens[index],
            output_tokens=self.output_tokens[index],
            origin=self.origin and replace(self.origin, line=self.origin.line[index]),
            prefix=self.prefix and self.prefix.take(index),
            client=None if self.client is None else self.client[index],
            session=None if self.session is None else self.session[index],
            priority=None if self.priority is None else self.priority[index],
        )

    def first(self, num_requests: int) -> Workload:
        """The oldest ``num_requests``, and of the rejected rows those above the last of them."""
        if not 1 <= num_requests <= len(self):
            raise UserError(
                f"{self.name}: cannot take the first {num_requests} of {len(self)} requests"
            )
        kept = self.take(np.arange(num_requests), self.arrival_s[:num_requests])
        if kept.origin is None:
            return kept
        rows = tuple(row for row in kept.origin.rejected if row.line < kept.origin.line[-1])
        return replace(kept, origin=replace(kept.origin, rejected=rows))

    def check_context(self, context_tokens: int) -> None:
        """Refuse requests that no replica can finish.

        Raises:
            UserError: a prompt and its output together are longer than ``context_tokens``.
        """
        too_long = np.flatnonzero(self.prompt_tokens + self.output_tokens > context_tokens)
        if not len(too_long):
            return
        i = int(too_long[0])
        raise UserError(
            f"{self.where(i)}: {self.prompt_tokens[i]} prompt and {self.output_tokens[i]} output "
            f"tokens exceed the model's context of {context_tokens} "
            f"({len(too_long)} of {len(self)} requests do)"
        )

    def drop_longer_than(self, context_tokens: int) -> Workload:
        """Only what fits the context; the others join the rejected rows.

        Raises:
            UserError: nothing fits.
        """
        total = self.prompt_tokens + self.output_tokens
        fits = total <= context_tokens
        if not fits.any():
            self.check_context(context_tokens)
        kept = self.take(np.flatnonzero(fits), self.arrival_s[fits])
        if self.origin is None or kept.origin is None:
            return kept
        reason = f"longer than the context of {context_tokens} tokens"
        long = (RejectedRow(int(line), reason) for line in self.origin.line[~fits])
        rejected = sorted((*self.origin.rejected, *long), key=lambda row: row.line)
        return replace(kept, origin=replace(kept.origin, rejected=tuple(rejected)))
