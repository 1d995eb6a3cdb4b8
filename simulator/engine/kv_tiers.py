"""Memory below the GPU's that keeps KV blocks."""

from __future__ import annotations

from dataclasses import dataclass

from servecast.compiler.errors import UserError
from servecast.simulator.engine.mode_text import fields_of, number

GB = 1e9


@dataclass(frozen=True, slots=True)
class KvTier:
    """What the prefix cache drops from the tier above comes here. To bring n blocks of a request back takes
    ``latency_s + n * block_s``.

    Raises:
        UserError: no room, or a negative time.
    """

    name: str
    blocks: int
    block_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if self.blocks < 1 or not self.block_s >= 0 or not self.latency_s >= 0:
            raise UserError(
                f"KV tier {self.name!r} of {self.blocks} blocks at {self.block_s:g} s each and "
                f"{self.latency_s:g} s before the first: it needs a block, and 0 seconds or more"
            )


@dataclass(frozen=True, slots=True)
class AskedTier:
    """A tier in bytes: one replica's, whatever its model.

    Raises:
        UserError: no bandwidth.
    """

    name: str
    room_bytes: float
    bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0:
            raise UserError(f"KV tier {self.name!r}: gb_per_s must be above 0")

    def tier(self, block_bytes: float) -> KvTier:
        """Of blocks of so many bytes.

        Raises:
            UserError: it has no room for one.
        """
        blocks = int(self.room_bytes // block_bytes)
        return KvTier(self.name, blocks, block_bytes / self.bytes_per_s, self.latency_s)


def parse_kv_tier(text: str) -> AskedTier:
    """``name=host,gb=64,gb_per_s=50,ms=0.1``; without ``ms`` there is no latency.

    Raises:
        UserError: an unknown part, no such number, or a part too few.
    """
    parts = fields_of("KV tier", text, ("name", "gb", "gb_per_s", "ms"))
    missing = [name for name in ("name", "gb", "gb_per_s") if name not in parts]
    if missing:
        raise UserError(f"KV tier {text!r}: say {missing[0]}=, as in name=host,gb=64,gb_per_s=50")
    name = parts.pop("name")
    room, rate, latency_ms = (number(n, parts.get(n, "0")) for n in ("gb", "gb_per_s", "ms"))
    return AskedTier(name, room * GB, rate * GB, latency_ms / 1e3)
