"""Whole steps: a known law is recovered, operators' tables are corrected by it, bad logs are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servecast.compiler.errors import DataMissingError
from servecast.compiler.hardware import Sku
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.build import build_tables
from servecast.estimator.engine_profile import ENGINE_PROFILES
from servecast.estimator.predictor import Predictor
from servecast.estimator.step_log import Chunks, StepLog, log_of, read_step_log
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.estimator.whole_steps import corrected, learn_steps, step_seconds

BOUNDS = TableBounds(64, 8, 512, 4096)


def steps(law: Callable[[int, int, Chunks], float], count: int = 300) -> StepLog:
    """Steps of up to 8 decodes and two chunks, timed by ``law`` of decodes, cached tokens and chunks."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        decodes = int(rng.integers(0, 7))
        cached = decodes * int(rng.integers(1, 500))
        number = int(rng.integers(0 if decodes else 1, 3))
        chunks = tuple((int(rng.integers(0, 400)), int(rng.integers(1, 28))) for _ in range(number))
        rows.append((law(decodes, cached, chunks), decodes, cached, chunks))
    return log_of(rows)


def by_hand(decodes: int, cached: int, chunks: Chunks) -> float:
    """2 ms, 10 us a token, 50 us a sequence, 1 us a pair of prefill, 100 ns a cached token."""
    tokens = decodes + sum(m for _, m in chunks)
    pairs = sum(m * c + m * (m + 1) / 2 for c, m in chunks)
    sequences = decodes + len(chunks)
    return 2e-3 + 1e-5 * tokens + 5e-5 * sequences + 1e-6 * pairs + 1e-7 * cached


def table_s(tables: RuntimeTables) -> Callable[[int, int, Chunks], float]:
    """What the tables say of a step whose sizes lie on their points."""

    def law(decodes: int, cached: int, chunks: Chunks) -> float:
        tokens, sequences = decodes + sum(m for _, m in chunks), decodes + len(chunks)
        seconds = tables.host_step_s + tables.token_s[0, tokens] + tables.sequence_s[0, sequences]
        points = np.arange(tables.decode_s.shape[2]) * tables.kv_step_tokens
        seconds += np.interp(cached, points, tables.decode_s[0, decodes]) if decodes else 0.0
        if chunks:
            seconds += tables.prefill_base_s[0]
        for context, m in chunks:
            grid = tables.prefill_s[0]
            on_chunk = [
                np.interp(m / tables.chunk_step_tokens, range(grid.shape[1]), row) for row in grid
            ]
            seconds += np.interp(
                context / tables.context_step_tokens, range(grid.shape[0]), on_chunk
            )
        return float(seconds)

    return law


@pytest.fixture
def operators(
    predictor: Predictor, gpu: Sku, model: Callable[..., ShardedProgram]
) -> RuntimeTables:
    return build_tables(model(), gpu, BOUNDS, predictor, ENGINE_PROFILES["none"])


def test_a_known_law_of_steps_is_recovered() -> None:
    tables = learn_steps(steps(by_hand)).tables(BOUNDS)
    said = table_s(tables)
    for case in ((5, 1000, ()), (0, 0, ((0, 32),)), (3, 80, ((64, 32),))):
        assert said(*case) == pytest.approx(by_hand(*case), rel=0.02)


def test_no_step_is_shorter_for_doing_more() -> None:
    rng = np.random.default_rng(1)
    log = steps(by_hand)
    noisy = replace(log, seconds=log.seconds * np.exp(rng.normal(0, 0.3, len(log.seconds))))
    tables = learn_steps(noisy).tables(BOUNDS)
    for table in (tables.token_s, tables.sequence_s, tables.prefill_s, tables.decode_s):
        assert (np.diff(table, axis=-1) >= 0).all()


def noisy_steps(law: Callable[[int, int, Chunks], float], spread: float) -> StepLog:
    log = steps(law, count=1000)
    errors = np.random.default_rng(1).normal(0, spread, len(log.seconds))
    return replace(log, seconds=log.seconds * np.exp(errors))


def test_whole_steps_tell_how_far_they_are_off() -> None:
    """8 % in the log; twice that in steps larger than any in it; nothing where nothing runs."""
    tables = learn_steps(noisy_steps(by_hand, 0.08)).tables(replace(BOUNDS, max_batched_tokens=128))
    assert tables.token_spread[[0, 32, 128]] == pytest.approx([0, 0.08, 0.16], rel=0.1)
    assert tables.decode_spread == pytest.approx(tables.decode_spread[0, 0])
    assert tables.decode_spread.shape == tables.decode_source.shape == tables.decode_s.shape[1:]
    assert tables.prefill_spread.shape == tables.prefill_source.shape == tables.prefill_s.shape[1:]


def test_a_log_of_few_steps_is_not_believed_to_be_exact() -> None:
    tables = learn_steps(steps(by_hand, count=20)).tables(BOUNDS)
    assert tables.token_spread[8] == pytest.approx(0.5 / 1.6449)


def test_corrected_operators_are_off_by_what_the_log_leaves(operators: RuntimeTables) -> None:
    found = corrected(operators, noisy_steps(table_s(operators), 0.03))
    assert found.token_spread[8] == pytest.approx(0.03, rel=0.15)
    assert found.decode_spread[4, 8] == found.token_spread[8]


def test_operators_are_corrected_by_the_factor_that_the_log_tells(operators: RuntimeTables) -> None:
    """An engine with half a millisecond on the host, and decode attention a third slower than predicted."""
    slower = replace(operators, decode_s=operators.decode_s * 4 / 3, host_step_s=0.5e-3)
    found = corrected(operators, steps(table_s(slower)))
    assert found.host_step_s == pytest.approx(0.5e-3, rel=0.02)
    assert found.decode_s == pytest.approx(slower.decode_s, rel=0.05)
    assert found.prefill_s == pytest.approx(slower.prefill_s, rel=0.05)


def test_what_the_log_never_ran_stays_as_the_operators_say(operators: RuntimeTables) -> None:
    log = steps(table_s(operators))
    decoding = [i for i, chunks in enumerate(log.chunks) if not chunks]
    alone = StepLog(
        log.seconds[decoding],
        log.decodes[decoding],
        log.cached_tokens[decoding],
        tuple(log.chunks[i] for i in decoding),
    )
    np.testing.assert_array_equal(corrected(operators, alone).prefill_s, operators.prefill_s)


def test_a_log_without_prefill_teaches_no_whole_steps() -> None:
    with pytest.raises(DataMissingError, match="no step with prefill among 2"):
        learn_steps(log_of([(1e-3, 1, 10, ()), (2e-3, 2, 20, ())]))


def test_a_log_does_not_tell_stages_apart(
    predictor: Predictor, gpu: Sku, model: Callable[..., ShardedProgram]
) -> None:
    tables = build_tables(model(pp=2), gpu, BOUNDS, predictor, ENGINE_PROFILES["none"])
    with pytest.raises(DataMissingError, match="tables of one pipeline stage, these have 2"):
        corrected(tables, steps(by_hand))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            (1e-3, 9, 90, ()),
            "step 2 of the log needs max_num_seqs=9, the tables are for max_num_seqs=8",
        ),
        ((1e-3, 0, 0, ((0, 65),)), "step 2 .* max_batched_tokens=65, .* max_batched_tokens=64"),
    ],
)
def test_a_step_larger_than_the_tables_is_named(
    operators: RuntimeTables, row: tuple[float, int, int, Chunks], message: str
) -> None:
    with pytest.raises(DataMissingError, match=message):
        corrected(operators, log_of([(1e-3, 1, 10, ()), row]))


def test_corrected_tables_say_what_the_steps_took(operators: RuntimeTables) -> None:
    slower = replace(operators, decode_s=operators.decode_s * 4 / 3, host_step_s=0.5e-3)
    log = steps(table_s(slower))
    assert step_seconds(slower, log) == pytest.approx(log.seconds)
    assert step_seconds(corrected(operators, log), log) == pytest.approx(log.seconds, rel=0.02)


def test_decodes_beside_a_prompt_count_as_tables_have_them(operators: RuntimeTables) -> None:
    """Each decode takes 10 us more beside 16 tokens of prompts, 20 us beside 32 and more."""
    decodes = np.arange(operators.decode_s.shape[1])[None, None, :, None]
    extra_s = np.array([1e-5, 2e-5])[None, :, None, None] * decodes
    together = replace(
        operators,
        mixed_s=np.broadcast_to(extra_s, (1, 2, *operators.decode_s.shape[1:])),
        mixed_chunk_tokens=np.array([16.0, 32.0]),
    )
    log = log_of([(1e-3, 3, 30, ((0, 8),)), (1e-3, 3, 30, ((0, 8), (8, 16))), (1e-3, 3, 30, ())])
    more_s = step_seconds(together, log) - step_seconds(operators, log)
    assert more_s == pytest.approx([3e-5, 4.5e-5, 0])


HEADER = "seconds,decodes,cached_tokens,chunks\n"


def test_a_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(HEADER + "0.0123,8,16000,\n0.0451,7,14200,0+512;1024+256\n")
    log = read_step_log(path)
    assert log.chunks == ((), ((0, 512), (1024, 256)))
    assert (log.tokens.tolist(), log.sequences.tolist()) == ([8, 775], [8, 9])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seconds,decodes\n", r"no column cached_tokens, chunks"),
        (HEADER + "0.1,1,2,\n-1,1,2,\n", r"steps\.csv:3: seconds '-1' is no positive time"),
        (HEADER + f"0.1,1,{10**30},\n", r"steps\.csv:2: cached_tokens '1000+' is no count"),
        (HEADER + "0.1,1," + "2" * 200_000, r"steps\.csv: is no log of steps: field larger"),
        (HEADER + "0.1,one,2,\n", r"steps\.csv:2: decodes 'one' is no count"),
        (HEADER + "0.1,0,0,512\n", r"steps\.csv:2: chunk '512' is not context\+tokens"),
        (HEADER + "0.1,0,0,\n", r"steps\.csv:2: .* ran nothing"),
        (HEADER, r"steps\.csv: has no steps below its header"),
    ],
)
def test_a_bad_log_is_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(text)
    with pytest.raises(DataMissingError, match=message):
        read_step_log(path)


def test_a_log_that_is_not_there_is_named() -> None:
    with pytest.raises(DataMissingError, match=r"no/steps\.csv: cannot be read: No such file"):
        read_step_log("no/steps.csv")
