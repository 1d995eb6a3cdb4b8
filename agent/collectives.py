"""Starts, feeds and ends the ranks of a process group on this node. The ranks are `rank.py`'s processes."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from servecast.agent.messages import Group
from servecast.agent.rank import RankCase, RankConfig, line_of
from servecast.agent.stopping import StopReason, StopRule
from servecast.agent.timing import Sampling

START_TIMEOUT_S = 120.0  # of a rank: it loads PyTorch and meets the others
POLL_S = 0.1  # between two looks whether somebody stopped the case
END_S = 5.0  # for a rank to end by itself

log = logging.getLogger(__name__)


class GroupError(RuntimeError):
    """A rank ended, or could not do its part."""


class GroupOutOfMemoryError(GroupError):
    """The tensors of a rank do not fit."""


@dataclass(slots=True)
class RankProcess:
    """One rank as its agent sees it."""

    process: subprocess.Popen[bytes]
    _pending: bytes = b""

    @classmethod
    def start(cls, config: RankConfig) -> RankProcess:
        environment = dict(os.environ)
        if config.device < 0:
            environment |= {"OMP_NUM_THREADS": str(config.threads)}
            if config.host == LOOPBACK:
                environment |= {"GLOO_SOCKET_IFNAME": "lo"}
        process = subprocess.Popen(
            [sys.executable, "-m", "servecast.agent.rank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        rank = cls(process)
        rank.tell(line_of(config))
        return rank

    def tell(self, line: str) -> None:
        """Raises: GroupError where the rank has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except OSError as error:
            raise GroupError("a rank has ended") from error

    def hear(self, stopped: Callable[[], bool], timeout_s: float) -> dict[str, object] | None:
        """The rank's next message, or None once ``stopped``. Raises: GroupError."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        waited_s = 0.0
        while b"\n" not in self._pending:
            if stopped():
                return None
            if select.select([descriptor], [], [], POLL_S)[0]:
                received = os.read(descriptor, 1 << 16)
                if not received:
                    raise GroupError("a rank has ended")
                self._pending += received
            elif (waited_s := waited_s + POLL_S) > timeout_s:
                raise GroupError(f"a rank has been silent for {timeout_s:.0f} s")
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, object] = json.loads(line)
        if "error" in message:
            kind = GroupOutOfMemoryError if message["no_room"] else GroupError
            raise kind(str(message["error"]))
        return message

    def end(self) -> None:
        """The end of its input ends a rank; one that does not hear it is killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class RankGroup:
    """The ranks of one process group that live on this node; used by one thread, ended by any."""

    group: Group
    library: str = ""
    ranks: list[RankProcess] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(
        self, devices: Sequence[int], threads: int, stopped: Callable[[], bool]
    ) -> Iterator[str]:
        """Yields the address of the rendezvous once rank 0 has opened it here, then starts the others.

        ``devices`` are the GPU of each local rank, or -1 for a processor.

        Raises: GroupError. Ends early, with fewer ranks, where ``stopped``.
        """
        host, _, port = self.group.rendezvous.rpartition(":")
        host, number = host or self.group.host or LOOPBACK, int(port or 0)
        for local, device in enumerate(devices):
            rank = RankProcess.start(
                RankConfig(
                    rank=self.group.first_rank + local,
                    world_size=self.group.world_size,
                    host=host,
                    port=number,
                    device=device,
                    threads=threads,
                    library=self.library,
                )
            )
            self.ranks.append(rank)
            if number == 0:
                opened = rank.hear(stopped, START_TIMEOUT_S)
                if opened is None:
                    return
                number = int(str(opened["port"]))
                yield f"{host}:{number}"
        self._await_ready(stopped)

    def _await_ready(self, stopped: Callable[[], bool]) -> None:
        for rank in self.ranks:
            while True:
                message = rank.hear(stopped, START_TIMEOUT_S)
                if message is None:
                    return
                if "ready" in message:
                    break

    def measure(
        self, case: RankCase, stopped: Callable[[], bool], into: Sampling
    ) -> Iterator[float]:
        """The samples of rank 0, if it is here, kept in ``into`` with how they ended. Raises: GroupError."""
        for rank in self.ranks:
            rank.tell(line_of(case))
        silent_s = START_TIMEOUT_S + case.rule["max_case_s"]
        message: dict[str, object] = {}
        for rank in self.ranks:
            while True:
                heard = rank.hear(stopped, silent_s)
                if heard is None:
                    return
                message = heard
                if "reason" in message:
                    break
                into.samples_us.append(float(str(message["sample_us"])))
                yield into.samples_us[-1]
        clocks = {name: round(float(str(message[name])), 4) for name in ("measured_s", "once_s")}
        log.info("collective measured", extra=clocks)
        into.launches = int(str(message["launches"]))
        into.reason = StopReason(str(message["reason"]))

    def end(self) -> None:
        with self._lock:
            ranks, self.ranks = self.ranks, []
        for rank in ranks:
            rank.end()


def rank_case(kernel: str, dtype: str, payload_bytes: int, rule: StopRule) -> RankCase:
    return RankCase(kernel, dtype, payload_bytes, asdict(rule))
