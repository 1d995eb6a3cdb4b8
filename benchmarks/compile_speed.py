"""How long specs take to compile and shard, warm, in one process: `python benchmarks/compile_speed.py`.

For each shipped spec the best of some runs, in milliseconds of CPU: parsing, all of compiling, and cutting
every model of the file at every tensor-parallel degree that divides it up to 16, with 1, 2 and 4 stages.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from servecast.compiler.catalog import Spec, compile_text
from servecast.compiler.parse import parse
from servecast.compiler.shard import shard, tp_degrees
from servecast.compiler.sharded import Parallelism

SPEC = Path(__file__).resolve().parent.parent / "spec"
RUNS = 5


def best_ms(function: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return round(1e3 * min(times), 2)


def shard_all(spec: Spec) -> int:
    """How many plans there are."""
    plans = 0
    for program in spec.models.values():
        for tp in tp_degrees(program, 16):
            for pp in (1, 2, 4):
                if pp <= program.num_layers:
                    shard(program, Parallelism(tp=tp, pp=pp))
                    plans += 1
    return plans


def measure(path: Path) -> dict[str, object]:
    text = path.read_text(encoding="utf-8")
    spec = compile_text(text, path.name)
    return {
        "spec": path.name,
        "bytes": len(text),
        "models": len(spec.models),
        "plans": shard_all(spec),
        "parse_ms": best_ms(lambda: parse(text, path.name)),
        "compile_ms": best_ms(lambda: compile_text(text, path.name)),
        "shard_ms": best_ms(lambda: shard_all(spec)),
    }


if __name__ == "__main__":
    print(json.dumps([measure(path) for path in sorted(SPEC.glob("*.llm"))], indent=2))
