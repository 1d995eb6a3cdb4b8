"""Compiles mutated specs and reports what was not a clean error: `benchmarks/fuzz_specs.py --count 100000`.

A mutant may compile or be refused with a `UserError`; anything else, and anything slower than a second,
is printed with the seed that makes it again, and the exit code is 1. One JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path

from servecast.compiler.catalog import compile_text
from servecast.compiler.errors import UserError
from servecast.compiler.fmt import format_source
from servecast.compiler.memory import plan_memory
from servecast.compiler.parse import parse
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism

REPOSITORY = Path(__file__).resolve().parent.parent
SLOW_S = 1.0
WORDS = re.compile(r'"[^"\n]*"|->|<=|\w+|\s+|[^\w\s]')
STRANGE = (
    *(
        "0",
        "1",
        "7",
        "999999999999999",
        "10000000000",
        "1.5",
        "-",
        "{",
        "}",
        "(",
        ")",
        "->",
        "x",
        "/",
    ),
    *("\0", "\t", "\r\n", "€", "𝔘", "\u202e", '"', "#", "''", "()" * 30, "{" * 60, "1+" * 70),
    *("repeat 1000000000 {", "repeat 0", "residual {", "parallel { } {", "experts 8 choose 2 {"),
    *("split columns", "split rows", "keep", "window", "like", "let", "block", "always", "as"),
)


def read_corpus() -> list[str]:
    """Every shipped declaration that stands alone, each four times, and every wrong file."""
    shipped = [
        path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "spec").glob("*.llm"))
    ]
    parts = [part for text in shipped for part in re.split(r"\n(?=model|sku|service)", text)]
    alone = [part for part in parts if " like " not in part.split("{")[0]]
    wrong = sorted((REPOSITORY / "tests" / "golden" / "compiler" / "wrong").glob("*.llm"))
    return 4 * alone + [path.read_bytes().decode() for path in wrong]


def mutate(text: str, rng: random.Random) -> str:
    """A text with a few words dropped, doubled, swapped, replaced or made strange."""
    words = WORDS.findall(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        i, j = rng.randrange(len(words)), rng.randrange(len(words))
        match rng.randrange(7):
            case 0:
                del words[i]
            case 1:
                words.insert(i, words[j])
            case 2:
                words[i], words[j] = words[j], words[i]
            case 3:
                words[i] = rng.choice(STRANGE)
            case 4:
                words.insert(i, rng.choice(STRANGE))
            case 5:
                words[i] = _misspelt(words[i], rng)
            case _:
                low, high = min(i, j), min(max(i, j), min(i, j) + 40)
                words[low:low] = words[low:high]  # a passage twice
        if not words:
            return ""
    return "".join(words)


def _misspelt(word: str, rng: random.Random) -> str:
    i = rng.randrange(len(word) or 1)
    return rng.choice((word[:i] + word[i + 1 :], word[:i] + chr(rng.randrange(32, 127)) + word[i:]))


def compile_fully(text: str) -> str:
    """Everything the compiler does with a text, down to plans; what came of it."""
    try:
        check_formatting(text)
        spec = compile_text(text, "mutant.llm")
    except UserError as error:
        return type(error).__name__
    for program in spec.models.values():
        for parallelism in (Parallelism(), Parallelism(tp=2), Parallelism(tp=3, pp=2)):
            with suppress(UserError):
                plan = plan_memory(shard(program, parallelism), 80 << 30, 0.9, 2048, 128)
                assert plan.kv_blocks >= 0
    return "compiled"


def check_formatting(text: str) -> None:
    """The canonical form says the same, keeps every comment, and is its own canonical form."""
    formatted = format_source(text, "mutant.llm")
    assert format_source(formatted, "mutant.llm") == formatted
    assert parse(formatted, "f").declarations == parse(text, "mutant.llm").declarations


def peak_mb() -> float | None:
    """The most memory that this program has held; None where the system does not say.

    getrusage would not do: its peak is inherited from the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    peak_kb = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(peak_kb.split()[1]) / 1024, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    corpus = [
        path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "spec").glob("*.llm"))
    ]
    wrong = REPOSITORY / "tests" / "golden" / "compiler" / "wrong"
    corpus += [path.read_bytes().decode() for path in sorted(wrong.glob("*.llm"))]
    outcomes: Counter[str] = Counter()
    slowest_s, failures = 0.0, 0
    for number in range(args.count):
        rng = random.Random(f"{args.seed}/{number}")
        text = mutate(rng.choice(corpus), rng)
        start = time.process_time()
        try:
            outcomes[compile_fully(text)] += 1
        except Exception:  # the whole point: whatever it is, it is a fault of ours
            failures += 1
            print(f"seed {args.seed} number {number}\n{traceback.format_exc()}", file=sys.stderr)
        took_s = time.process_time() - start
        if took_s > SLOW_S:
            failures += 1
            print(f"seed {args.seed} number {number} took {took_s:.2f} s", file=sys.stderr)
        slowest_s = max(slowest_s, took_s)
    report = {
        "mutants": args.count,
        "seed": args.seed,
        "outcomes": dict(sorted(outcomes.items())),
        "failures": failures,
        "slowest_s": round(slowest_s, 3),
        "peak_mb": peak_mb(),
    }
    print(json.dumps(report))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
