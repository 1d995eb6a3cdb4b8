"""Forks processes that run a command of ours with its imports made: real processes, in milliseconds.

Reads a line of JSON per process, {"command": ["agent", ...], "stdout": PATH}; answers with its process id.
Nothing that threads or holds a lock is started before a fork: only modules are loaded.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import servecast.agent.cli
import servecast.agent.serve
import servecast.estimator.profiling.collect
import servecast.estimator.profiling.plan
import servecast.simulator.cli
from servecast.compiler.catalog import shipped_skus


def run(command: list[str], stdout: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out = os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    mains = {"agent": servecast.agent.cli.main, "servecast": servecast.simulator.cli.main}
    try:
        mains[command[0]](command[1:])
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    os._exit(0)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the killed
    shipped_skus()  # makes the parser, which takes longer than a test's profile
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run(order["command"], order["stdout"])
        print(child, flush=True)


if __name__ == "__main__":
    main()
