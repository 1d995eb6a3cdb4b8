"""Every kernel that an agent can time, by its name in compiler/kernels.py."""

from __future__ import annotations

from servecast.agent.kernels import linear
from servecast.agent.kernels.kernel import Kernel

KERNELS: dict[str, Kernel] = {
    "linear": linear.KERNEL,
}
