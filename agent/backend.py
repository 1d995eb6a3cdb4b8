"""What the profiler asks of a device: who it is, how it is now, memory, and a clock. Tests fake it here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from servecast.agent.kernels.buffers import Buffers
from servecast.agent.kernels.kernel import Capability, Launch
from servecast.agent.messages import Conditions, Device, Link
from servecast.agent.timing import Elapsed


class Backend(Protocol):
    """One kind of device on this node; ``index`` counts its devices from 0."""

    @property
    def name(self) -> str: ...

    @property
    def methods(self) -> tuple[str, ...]:
        """Ways to launch, the default first."""

    @property
    def sample_floor_us(self) -> float:
        """The shortest sample that the clock measures well."""

    @property
    def threads(self) -> int: ...

    @property
    def capability(self) -> Capability: ...

    def devices(self) -> tuple[Device, ...]: ...

    def links(self) -> tuple[Link, ...]: ...

    def versions(self) -> dict[str, str]: ...

    def conditions(self, index: int) -> Conditions: ...

    def buffers(self, index: int) -> Buffers: ...

    def elapsed(
        self, method: str, launches: Sequence[Launch], index: int, rows: int = 0
    ) -> Elapsed:
        """A timer that runs the launches, in turn, going on where its last call
        left off. Before each a product of ``rows`` rows may go (``cpu_step``).
        """

    def host_launch_us(self, launches: Sequence[Launch]) -> float | None:
        """The host's time to issue one launch without waiting for it; None where it does wait."""

    def energy_j(self, index: int) -> float | None:
        """Joules since some moment, or None where nothing counts them."""

    def works(self, index: int) -> bool:
        """Whether the device still answers; after some errors it never does again in this process."""

    def enter(self, index: int) -> None:
        """Makes the calling thread the one that uses the device."""

    def make_room(self, index: int) -> None:
        """Gives back what was kept for later cases."""

    def release(self, index: int) -> None:
        """Gives freed memory back."""
