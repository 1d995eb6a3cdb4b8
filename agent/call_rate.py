"""How many calls an agent takes in a second. More are refused before anything is read of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

CALLS_PER_S = (
    500.0  # four times what a coordinator asks of eight GPUs, whose cases last 60 ms at least
)
BURST = 1000


@dataclass(slots=True)
class CallRate:
    """A bucket of calls that refills: ``burst`` at once, ``per_s`` for long."""

    per_s: float = CALLS_PER_S
    burst: int = BURST
    now_s: Callable[[], float] = time.monotonic
    _left: float = field(init=False)
    _at_s: float = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._left, self._at_s = float(self.burst), self.now_s()

    def takes(self) -> bool:
        """Whether one more call may come now."""
        with self._lock:
            now_s = self.now_s()
            self._left = min(self.burst, self._left + (now_s - self._at_s) * self.per_s)
            self._at_s = now_s
            if self._left < 1:
                return False
            self._left -= 1
            return True


class RateInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Refuses what is more than the rate, whoever asks."""

    def __init__(self, rate: CallRate) -> None:
        self._rate = rate
        self._refusal = grpc.unary_unary_rpc_method_handler(self._refuse)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # gRPC's handlers have no common type
        return continuation(handler_call_details) if self._rate.takes() else self._refusal

    def _refuse(self, request: object, context: grpc.ServicerContext) -> None:
        del request
        message = f"more than {self._rate.per_s:g} calls a second; try later"
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
