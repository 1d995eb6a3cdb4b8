"""Decodes of unequal lengths: how far off a queue of FlashAttention's blocks foretells them.

    python benchmarks/decode_queue.py ../shared/data/profiles/llmservingsim

Prints as JSON, for each profile with a sweep of unequal lengths (LLMServingSim's ``skew.csv``; of decodes
alone the launches that take 0.1 ms and more), the mean and the mean absolute error of what they take, told by
the time of as many sequences of their mean length: as if they took no longer, and for several numbers of
blocks that use all of the memory's bandwidth.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from servecast.estimator import decode_queue
from servecast.estimator.importers.llmservingsim import MODELS, SKUS
from servecast.estimator.models import num_sms_of

LAUNCHES = 3  # a time in the file is their sum
SHORTEST_US = 100.0
Row = dict[str, str]
Misses = dict[str, list[float]]
SATURATING = (30, 40, 50, 60, 80)


def alone(rows: list[Row], kv_heads: int, num_sms: int) -> Misses:
    """Decodes without a prefill beside them, in launches that are not over at once."""
    found: Misses = defaultdict(list)
    launch_us = min(float(row["t_mean_us"]) for row in rows) / LAUNCHES
    for row in rows:
        equal_us, uneven_us = (float(row[name]) / LAUNCHES for name in ("t_mean_us", "t_skew_us"))
        if equal_us < SHORTEST_US:
            continue
        found["no longer"].append(equal_us / uneven_us - 1)
        long, batch = int(row["nb"]), int(row["n"])
        lengths = np.array([float(row["kv_big"])] * long + [float(row["kvs"])] * (batch - long))
        for blocks in SATURATING:
            decode_queue.SATURATING = blocks
            told = decode_queue.queue_tokens(lengths, kv_heads, num_sms)
            told /= decode_queue.queue_tokens(np.full(batch, lengths.mean()), kv_heads, num_sms)
            longer_us = equal_us + (told - 1) * (equal_us - launch_us)
            found[f"{blocks} blocks"].append(longer_us / uneven_us - 1)
    return found


def beside_prefill(rows: list[Row], key_us: float) -> Misses:
    """The last block walks along the longest sequence; ``key_us`` is one key's time at full bandwidth."""
    found: Misses = defaultdict(list)
    for row in rows:
        equal_us, uneven_us = (float(row[name]) / LAUNCHES for name in ("t_mean_us", "t_skew_us"))
        found["no longer"].append(equal_us / uneven_us - 1)
        for blocks in SATURATING:
            tail_us = (float(row["kv_big"]) - float(row["kv_mean"])) * blocks * key_us
            found[f"{blocks} blocks"].append((equal_us + tail_us) / uneven_us - 1)
    return found


def key_us_of(path: Path, kv_heads: int) -> float:
    """One key of one head at full bandwidth: of the largest batch, between its longest contexts."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["prefill_chunk"] == "0"]
    most = max(int(row["n_decode"]) for row in rows)
    largest = sorted(
        (int(row["kv_decode"]), float(row["time_us"]))
        for row in rows
        if int(row["n_decode"]) == most
    )
    (shorter, less_us), (longest, more_us) = largest[-2:]
    return (more_us - less_us) / (longest - shorter) / most / kv_heads


def summary(found: Misses) -> dict[str, dict[str, float]]:
    return {
        name: {
            "rows": len(each),
            "mean_%": round(100 * float(np.mean(each)), 2),
            "mean_absolute_%": round(100 * float(np.mean(np.abs(each))), 2),
        }
        for name, each in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found = {}
    for path in sorted(folder.glob("*/**/tp*/skew.csv")):
        gpu, *name, _, ranks = path.relative_to(folder).parts[:-1]
        kv_heads = MODELS["/".join(name)].kv_heads // int(ranks.removeprefix("tp"))
        with path.open() as file:
            rows = list(csv.DictReader(file))
        pure = [row for row in rows if row["regime"] == "pure"]
        mixed = [row for row in rows if row["regime"] == "mixed"]
        key_us = key_us_of(path.with_name("attention.csv"), kv_heads)
        found[path.parent.relative_to(folder).as_posix()] = {
            "alone": summary(alone(pure, kv_heads, num_sms_of(SKUS[gpu]))),
            "beside a prefill": summary(beside_prefill(mixed, key_us)),
        }
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
