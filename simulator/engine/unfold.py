"""Logs of a replica whose decodes rest while prompts run, as those of one whose requests go each its way.

There a lane's step counts batches of decodes. Here requests' runs of tokens are told by all of the lane's
batches: a run ends where decodes rested, and a first token is a run of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servecast.simulator.engine.pools import record_dtype
from servecast.simulator.engine.records import Records
from servecast.simulator.engine.state import Segment

Ints = NDArray[np.int64]


def unfold(records: Records, kv_blocks: int, block_tokens: int) -> Records:
    """The same run, in blocks of so many tokens, of which the records have one."""
    steps = records.steps.copy()
    free = records.kv_blocks - steps["used_blocks"]
    steps["used_blocks"] = kv_blocks - free // block_tokens
    place, decoding, begins = _places(records)
    requests = records.requests.copy()
    done = np.flatnonzero(records.finished)
    rows, early = requests[done], records.segments
    request = np.concatenate((early["request"], done))
    lane = np.concatenate((early["lane"], rows["lane"]))
    joined = place[np.concatenate((early["joined"], rows["joined"]))]
    first = np.concatenate((early["first"], rows["prompt"] - rows["base"] - 1)) + begins[lane] + 1
    last = np.concatenate((early["last"], rows["last"])) + begins[lane]
    which, begin, end = _runs(decoding, first, last)
    everyone = np.concatenate((request, request[which]))
    begin, end = np.concatenate((joined, begin)), np.concatenate((joined, end))
    order = np.lexsort((begin, everyone))
    everyone, begin, end = everyone[order], begin[order], end[order]
    final = np.append(everyone[1:] != everyone[:-1], True)[: len(everyone)]
    final &= records.finished[everyone]
    number = everyone[final]
    requests["prompt"][number], requests["base"][number] = begin[final] + 1, 0
    requests["last"][number] = end[final]
    segments = np.zeros(int((~final).sum()), record_dtype(Segment))
    segments["request"], segments["first"] = everyone[~final], begin[~final]
    segments["last"], segments["lane"] = end[~final], requests["lane"][everyone[~final]]
    return replace(
        records,
        requests=requests,
        steps=steps,
        segments=segments,
        kv_blocks=kv_blocks,
        most=None,
        lock_step=False,
    )


def _places(records: Records) -> tuple[Ints, Ints, Ints]:
    """Of each step its place among its lane's; those places of the steps of decodes, lane after lane; where
    each lane begins among these."""
    order, lane_begins = records.by_lane()
    lane_of = records.lane[order]
    place: Ints = np.empty(len(records.steps), np.int64)
    place[order] = np.arange(len(lane_of)) - lane_begins[lane_of]
    decoding = records.decodes[order] > 0
    count = np.bincount(lane_of[decoding], minlength=len(lane_begins) - 1)
    return place, place[order][decoding], np.concatenate(([0], np.cumsum(count)))


def _runs(places: Ints, first: Ints, last: Ints) -> tuple[Any, Ints, Ints]:
    """Each interval of these places in consecutive pieces: which interval's, the first and the last place."""
    new = np.append(True, places[1:] != places[:-1] + 1)[: len(places)]
    group = np.cumsum(new) - 1
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(places)) - 1
    some = np.flatnonzero(first <= last)
    pieces = group[last[some]] - group[first[some]] + 1
    which = np.repeat(some, pieces)
    within = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    piece = group[first[which]] + within
    begin = np.maximum(first[which], starts[piece])
    end = np.minimum(last[which], ends[piece])
    return which, places[begin], places[end]
