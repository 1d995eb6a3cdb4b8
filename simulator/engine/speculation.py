"""Drafts that a step checks: how long they are, what of them is accepted, what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from servecast.compiler.errors import UserError
from servecast.estimator.tables import RuntimeTables
from servecast.simulator.engine.mode_text import fields_of, number, whole

MOST_DRAFTED = 64


@dataclass(frozen=True, slots=True)
class Speculation:
    """A drafter proposes tokens, the model checks them all in its next step and keeps those before the first
    that it would not have chosen, and one of its own.

    ``lengths[n]`` is the probability that n tokens are drafted, ``acceptance[j]`` that token j of a draft is
    accepted if those before it were (the last one holds for all after it). ``trace`` replaces both: (drafted,
    accepted) of recorded steps, which each request replays in order from a place of its own.

    A pass of the drafter takes ``cost`` of what the model would take for it, or what ``drafter`` says. It
    makes one over all tokens of the step and one for each further token of the longest draft; 0: drafts are
    looked up, and need no KV.

    Raises:
        UserError: no such probabilities, or more accepted than drafted.
    """

    lengths: tuple[float, ...] = (0.0, 1.0)
    acceptance: tuple[float, ...] = (0.7,)
    trace: tuple[tuple[int, int], ...] = ()
    cost: float = 0.0
    drafter: RuntimeTables | None = None

    def __post_init__(self) -> None:
        if not self.acceptance or not all(0 <= each <= 1 for each in self.acceptance):
            raise UserError(f"acceptance {self.acceptance}: each must be from 0 to 1")
        if abs(sum(self.lengths) - 1) > 1e-6 or min(self.lengths) < 0:
            raise UserError(f"draft lengths' probabilities {self.lengths} must add up to 1")
        if not self.cost >= 0:
            raise UserError(f"the drafter's cost must be 0 or more, got {self.cost:g}")
        for drafted, accepted in self.trace:
            if not 0 <= accepted <= drafted:
                raise UserError(f"{accepted} of {drafted} drafted tokens cannot be accepted")
        if self.longest < 1:
            raise UserError("speculation without a drafted token: leave it away")

    @property
    def longest(self) -> int:
        """Tokens of the longest draft."""
        if self.trace:
            return max(drafted for drafted, _ in self.trace)
        return max(n for n, probability in enumerate(self.lengths) if probability > 0)

    @property
    def is_of_one_length(self) -> bool:
        """Whether every draft is."""
        if self.trace:
            return all(drafted == self.longest for drafted, _ in self.trace)
        return self.lengths[self.longest] == 1

    @property
    def lookahead(self) -> int:
        """Tokens beyond the step's own that need KV slots: a drafter's (vLLM's num_lookahead_tokens)."""
        return self.longest if self.cost or self.drafter else 0

    @property
    def extra_tokens(self) -> int:
        """The most that a request holds beyond its own tokens."""
        return self.longest + self.lookahead

    def drafts(self, number: int) -> Iterator[tuple[int, int]]:
        """(drafted, accepted) of a request's steps for ever: the same whatever the schedule."""
        rng = Random(f"speculation {number}")
        if self.trace:
            at = rng.randrange(len(self.trace))
            while True:
                yield self.trace[at]
                at = (at + 1) % len(self.trace)
        while True:
            drafted = rng.choices(range(len(self.lengths)), self.lengths)[0]
            sure = [self.acceptance[min(j, len(self.acceptance) - 1)] for j in range(drafted)]
            lucky = [rng.random() < each for each in sure]
            yield drafted, [*lucky, False].index(False)


def parse_speculation(text: str) -> Speculation:
    """``draft=4,acceptance=0.8/0.7/0.6,cost=0.05``; a draft of several lengths is ``0:0.3/4:0.7``.

    Raises:
        UserError: an unknown part, or no such number.
    """
    parts = fields_of("speculation", text, ("draft", "acceptance", "cost"))
    drafts = _lengths(parts.get("draft", "1"))
    lengths = [0.0] * (1 + max(tokens for tokens, _ in drafts))
    for tokens, probability in drafts:
        lengths[tokens] += probability
    acceptance = tuple(number("acceptance", n) for n in parts.get("acceptance", "0.7").split("/"))
    cost = number("cost", parts.get("cost", "0"))
    return Speculation(tuple(lengths), acceptance, cost=cost)


def _lengths(text: str) -> list[tuple[int, float]]:
    """(tokens, probability)"""
    pairs = [each.partition(":") for each in text.split("/")]
    if len(pairs) > 1 and not all(colon for _, colon, _ in pairs):
        raise UserError(f"draft {text!r}: several lengths need a probability each, as 0:0.3/4:0.7")
    return [
        (whole("draft", n, MOST_DRAFTED), number("draft's probability", p) if p else 1.0)
        for n, _, p in pairs
    ]
