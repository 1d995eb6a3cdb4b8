"""How a step's work is skewed where it is not even: lengths of a batch, tokens of the experts. Pure."""

from __future__ import annotations

LONG_SHARE = 8  # one sequence in so many is long
LONG_TOKENS = 2  # and the long ones hold one token in so many
POWER = 1.2  # of the experts' popularity by rank, as in the public tables' `power_law_1.2`


def skewed_lengths(batch: int, context: int) -> list[int]:
    """Cached tokens of each sequence, ``batch * context`` in all, long ones first; none is empty."""
    total = batch * context
    many = max(1, batch // LONG_SHARE)
    if many == batch:
        return [context] * batch
    of_long = min(max(total // LONG_TOKENS, many * context), total - (batch - many))
    return _even(of_long, many) + _even(total - of_long, batch - many)


def _even(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` that differ by one at most, larger ones first."""
    small, larger = divmod(total, parts)
    return [small + (part < larger) for part in range(parts)]


def popularity(experts: int) -> list[float]:
    """Share of the choices that each expert draws, most popular first."""
    weights = [rank**-POWER for rank in range(1, experts + 1)]
    return [weight / sum(weights) for weight in weights]
