"""The turns of the specification's sessions: which follows which, and the think time before it."""

from __future__ import annotations

from collections.abc import Sequence

from servecast.compiler.errors import UserError
from servecast.simulator.engine.patience import Turns
from servecast.simulator.reference.blocks import ReferenceRequest
from servecast.simulator.traffic.workload import Workload


class Sessions:
    """Places are those of the requests that are served. Where the workload names no blocks, a turn's prompt
    begins with all that the session had before it, prompts and answers, as far as it reaches.

    Raises:
        UserError: the workload does not say which requests are of one session.
    """

    def __init__(
        self,
        workload: Workload,
        requests: Sequence[ReferenceRequest | None],
        turns: Turns,
        block_tokens: int,
    ) -> None:
        if workload.session is None:
            raise UserError(f"{workload.name}: turns need a trace with the session of each request")
        self.before_s = turns.before_s(len(workload)).tolist()
        self.next: dict[int, int] = {}
        self.later: set[int] = set()
        self.number: dict[int, int] = {}
        last: dict[int, int] = {}
        for number, (session, request) in enumerate(
            zip(workload.session.tolist(), requests, strict=True)
        ):
            if request is None:
                continue
            self.number[request.place] = number
            if session in last:
                self.next[last[session]] = request.place
                self.later.add(request.place)
            last[session] = request.place
            if workload.prefix is None:
                request.hashes = [(session, k) for k in range(request.total // block_tokens)]

    def is_first(self, place: int) -> bool:
        return place not in self.later

    def following(self, place: int) -> int | None:
        """The session's next turn."""
        return self.next.get(place)

    def think_s(self, place: int) -> float:
        """Before this turn."""
        return float(self.before_s[self.number[place]])
