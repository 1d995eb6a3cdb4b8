"""The store: what goes in comes out once, and a crash loses and tears nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import DataMissingError
from servecast.compiler.kernels import KernelCase
from servecast.estimator.measurement import Measurement, MeasurementBatch, Origin, Timing
from servecast.estimator.quarantine import IMPOSSIBLE
from servecast.estimator.schema import MIGRATIONS, SCHEMA_VERSION
from servecast.estimator.store import Store

AGENT = Origin("agent", "host:1 v1")


def case(rows: int) -> KernelCase:
    dims = (("in_features", 64), ("out_features", 32), ("rows", rows))
    return KernelCase("linear", "bf16", "", dims)


def measured(rows: int, mean_s: float = 1e-5, **told: object) -> Measurement:
    return Measurement(case(rows), "gpu", AGENT, Timing(mean_s, 10, 1e-7), **told)  # type: ignore[arg-type]


def test_what_is_measured_comes_back_as_it_was() -> None:
    full = measured(
        8, method="cpu", flags=("a", "b"), node='{"gpu": "x"}', conditions="{}", measured_at_ns=7
    )
    with Store.open(":memory:") as store:
        store.add_measurements([full, measured(9)])
        assert set(store.measurements()) == {full, measured(9)}
        assert store.measurements("another") == []


def test_delivering_twice_adds_once() -> None:
    rows = [measured(8), measured(9)]
    with Store.open(":memory:") as store:
        assert store.add_measurements(rows) == 2
        assert store.add_measurements([*rows, measured(10)]) == 1


def test_the_same_case_measured_again_is_another_row() -> None:
    with Store.open(":memory:") as store:
        assert store.add_measurements([measured(8, 1e-5), measured(8, 2e-5)]) == 2


def test_missing_cases_keep_their_order() -> None:
    with Store.open(":memory:") as store:
        store.add_measurements([measured(8)])
        assert store.missing([case(9), case(8), case(7)], "gpu") == (case(9), case(7))
        assert store.missing([case(8)], "another") == (case(8),)


def test_a_throttled_measurement_leaves_its_case_missing() -> None:
    with Store.open(":memory:") as store:
        store.add_measurements([measured(8, flags=("throttled",))])
        assert store.missing([case(8)], "gpu") == (case(8),)
        assert store.kernel_data("gpu", "linear", ("bf16", ""), ["agent"]).num_rows == 0


def test_running_out_of_memory_is_a_result_that_no_estimator_reads() -> None:
    failed = Measurement(case(8), "gpu", AGENT, None, outcome="out_of_memory")
    with Store.open(":memory:") as store:
        store.add_measurements([failed])
        assert store.missing([case(8)], "gpu") == ()
        assert store.kernel_data("gpu", "linear", ("bf16", ""), ["agent"]).num_rows == 0


def test_imported_rows_never_count_as_measured_here() -> None:
    with Store.open(":memory:") as store:
        store.add_measurements([Measurement(case(8), "gpu", Origin("silicon"), Timing(1e-5))])
        assert store.missing([case(8)], "gpu") == (case(8),)


def test_rows_of_experts_tell_their_routing_whoever_measured_them() -> None:
    dims = tuple(sorted({"rows": 1, "hidden": 8, "experts": 4, "total_experts": 4}.items()))
    agents = [
        replace(measured(1, variant="dequantised"), case=KernelCase(kernel, "bf16", "", dims))
        for kernel in ("experts", "experts_skewed")
    ]
    public = replace(agents[0], origin=Origin("silicon"), variant="power_law_1.01")
    with Store.open(":memory:") as store:
        store.add_measurements([*agents, public])
        found = store.kernel_data("gpu", "experts", ("bf16", ""), ["agent", "silicon"])
        assert sorted(found.variant) == ["balanced", "power_law_1.01", "power_law_1.2"]
        assert store.missing([row.case for row in agents], "gpu") == ()


CALM, DRIFTS, TAIL = (), ("drifting",), ("heavy_tailed", "not_converged")
WIDE = ("not_converged",)  # a wide interval is noise around one speed


@pytest.mark.parametrize(
    ("rows", "read"),
    [
        ([(3.0, 0.1, DRIFTS), (4.0, 0.5, CALM)], [4.0]),
        ([(4.0, 0.5, WIDE), (3.0, 0.1, TAIL)], [4.0]),
        ([(4.0, 0.5, CALM), (3.0, 0.1, CALM)], [3.0, 4.0]),
        ([(3.0, 0.9, DRIFTS), (4.0, 0.8, DRIFTS)], [4.0]),
        ([(3.0, 0.1, DRIFTS)], [3.0]),
    ],
    ids=["calm after drift", "wide is calm", "both calm", "the least varied", "the only one"],
)
def test_of_a_case_measured_again_the_calm_rows_are_read(
    rows: list[tuple[float, float, tuple[str, ...]]], read: list[float]
) -> None:
    """The lower of two times would be too low on average."""
    with Store.open(":memory:") as store:
        store.add_measurements(
            replace(measured(8), timing=Timing(mean_s, 10, std_s), flags=flags)
            for mean_s, std_s, flags in rows
        )
        store.add_measurements([measured(9, 1.0, flags=DRIFTS)])
        data = store.kernel_data("gpu", "linear", ("bf16", ""), ["agent"])
    of_case = data.seconds[data.dims["rows"] == 8]
    assert sorted(of_case) == read
    assert data.num_rows == len(read) + 1


@pytest.mark.parametrize(
    ("rows", "read"),
    [
        ([(9.0, CALM), (5.0, TAIL), (5.1, DRIFTS)], [5.1]),
        ([(9.0, CALM), (5.0, CALM), (5.2, CALM), (1.0, CALM)], [5.0, 5.2]),
        ([(5.0, CALM), (5.0, CALM), (5.0, CALM)], [5.0]),
    ],
    ids=["one restless moment", "an even number", "all alike"],
)
def test_of_a_case_measured_three_times_or_more_the_middle_counts_whatever_it_is_flagged(
    rows: list[tuple[float, tuple[str, ...]]], read: list[float]
) -> None:
    """A row that is slow from its first sample to its last looks calm."""
    with Store.open(":memory:") as store:
        store.add_measurements(
            replace(measured(8), timing=Timing(mean_s, 10, 0.1), flags=flags, measured_at_ns=number)
            for number, (mean_s, flags) in enumerate(rows)
        )
        store.add_measurements([measured(9, 1.0)])
        data = store.kernel_data("gpu", "linear", ("bf16", ""), ["agent"])
        assert len(store.measurements("gpu")) == len(rows) + 1
    assert sorted(data.seconds[data.dims["rows"] == 8]) == read
    assert data.num_rows == len(read) + 1


def test_in_rounds_a_case_lacks_as_many_measurements_as_it_has_fewer() -> None:
    with Store.open(":memory:") as store:
        store.add_measurements([measured(8), replace(measured(8), measured_at_ns=1), measured(9)])
        cases = [case(8), case(9), case(7)]
        assert store.missing(cases, "gpu") == (case(7),)
        in_three = (case(7), case(9), case(7), case(8), case(9), case(7))
        assert store.missing(cases, "gpu", rounds=3) == in_three


def test_a_quarantined_batch_is_counted_but_not_read() -> None:
    batch = MeasurementBatch(
        *("linear", "bf16", "", "gpu", Origin("silicon")),
        dims={"rows": np.array([1, 2]), "in_features": np.array([4, 4])},
        times_s={"mean_s": np.array([1e-6, 2e-6])},
        quarantine="too good to be true",
    )
    with Store.open(":memory:") as store:
        store.add_batches([batch])
        assert store.kernel_data("gpu", "linear", ("bf16", ""), ["silicon"]).num_rows == 0
        assert [(c.quarantine, c.rows) for c in store.contents()] == [("too good to be true", 2)]


def test_one_bad_row_keeps_all_of_a_delivery_out() -> None:
    bad = MeasurementBatch(
        *("linear", "bf16", "", "gpu", AGENT),
        dims={"rows": np.array([1])},
        times_s={"mean_s": np.array([-1.0])},
    )
    good = MeasurementBatch(
        *("linear", "bf16", "", "gpu", AGENT),
        dims={"rows": np.array([1])},
        times_s={"mean_s": np.array([1.0])},
    )
    with Store.open(":memory:") as store:
        with pytest.raises(duckdb.ConstraintException):
            store.add_batches([good, bad])
        assert store.contents() == ()


def test_an_unknown_dimension_is_named() -> None:
    strange = KernelCase("linear", "bf16", "", (("colour", 3),))
    with (
        Store.open(":memory:") as store,
        pytest.raises(DataMissingError, match="no column for colour"),
    ):
        store.add_measurements([Measurement(strange, "gpu", AGENT, Timing(1e-5))])


def test_the_fingerprint_changes_with_the_rows_and_only_with_them(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a.duckdb") as a, Store.open(tmp_path / "b.duckdb") as b:
        a.add_measurements([measured(8), measured(9)])
        b.add_measurements([measured(9), measured(8)])
        same = a.fingerprint("gpu", ["agent"])
        assert b.fingerprint("gpu", ["agent"]) == same
        a.add_measurements([measured(10)])
        assert a.fingerprint("gpu", ["agent"]) != same


def test_a_store_from_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "new.duckdb"
    Store.open(path).__exit__(None, None, None)
    with duckdb.connect(str(path)) as sql:
        sql.execute(f"UPDATE store_meta SET schema_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(DataMissingError, match=r"new\.duckdb: the store has schema version"):
        Store.open(path)


def test_every_older_version_has_a_migration() -> None:
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA_VERSION))


@pytest.mark.parametrize("content", [b"not a database at all", b""])
def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content or b"\0" * 5000)
    with pytest.raises(DataMissingError, match=r"notes\.txt: cannot be opened as a profile store"):
        Store.open(path)
    assert path.read_bytes() == (content or b"\0" * 5000)


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.duckdb"
    with duckdb.connect(str(path)) as sql:
        sql.execute("CREATE TABLE t (x INTEGER)")
    with pytest.raises(
        DataMissingError, match=r"theirs\.duckdb: a DuckDB file, but not a profile store"
    ):
        Store.open(path)
    with duckdb.connect(str(path)) as sql:
        assert sql.execute("SHOW TABLES").fetchall() == [("t",)]


def test_reading_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="no such store"):
        Store.open(tmp_path / "none.duckdb", read_only=True)
    assert not list(tmp_path.iterdir())


def test_a_store_in_use_says_so(tmp_path: Path) -> None:
    path = tmp_path / "busy.duckdb"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        told = rf"busy\.duckdb: the store is in use by process {holder.pid}, still after 0\.3 s"
        with pytest.raises(DataMissingError, match=told) as raised:
            Store.open(path, patience_s=0.3)
        assert "http" not in str(raised.value)
    finally:
        holder.kill()
        holder.communicate()


def test_two_processes_that_start_on_one_fresh_store_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "shared.duckdb"
    writers = [subprocess.Popen([sys.executable, "-c", TURN, str(path), str(i)]) for i in (1, 2)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    with Store.open(path) as store:
        assert sum(line.rows for line in store.contents()) == 2 * 5


def test_a_process_killed_while_importing_leaves_whole_deliveries(tmp_path: Path) -> None:
    path = tmp_path / "killed.duckdb"
    acknowledged = 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(3):
            acknowledged = max(acknowledged, int(writer.stdout.readline()))
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        with Store.open(path) as store:
            rows = sum(line.rows for line in store.contents())
        assert rows >= acknowledged
        assert rows % DELIVERY == 0


DELIVERY = 50
TURN = """
import sys, time
import numpy as np
from servecast.estimator.measurement import MeasurementBatch, Origin
from servecast.estimator.store import Store
for i in range(5):
    with Store.open(sys.argv[1]) as store:
        time.sleep(0.01)  # so that both want it at once
        case = {"rows": np.array([i]), "width": np.array([int(sys.argv[2])])}
        times = {"mean_s": np.array([1e-6])}
        store.add_batches([MeasurementBatch("add", "bf16", "", "gpu", Origin("agent"), case, times)])
"""
HOLD = """
import sys, time
from servecast.estimator.store import Store
with Store.open(sys.argv[1]):
    print("open", flush=True)
    time.sleep(60)
"""
WRITE = f"""
import sys, time
import numpy as np
from servecast.estimator.measurement import MeasurementBatch, Origin
from servecast.estimator.store import Store
with Store.open(sys.argv[1]) as store:
    while True:
        batch = MeasurementBatch(
            "add", "bf16", "", "gpu", Origin("agent"), dims={{"rows": np.arange({DELIVERY})}},
            times_s={{"mean_s": np.full({DELIVERY}, 1e-6)}}, measured_at_ns=time.time_ns(),
        )
        store.add_batches([batch])
        print(sum(line.rows for line in store.contents()), flush=True)
"""


def test_an_export_merges_into_another_store_once(tmp_path: Path) -> None:
    rows = [measured(8, flags=("a",)), measured(9, node="{}"), measured(10, method="cpu")]
    file = tmp_path / "it's.parquet"
    with Store.open(":memory:") as one, Store.open(":memory:") as other:
        one.add_measurements(rows)
        assert one.export(file) == 3
        other.add_measurements(
            [*rows[:1], Measurement(case(1), "gpu", Origin("vidur"), Timing(1.0))]
        )
        assert other.merge(file, {}) == (2, 0)
        assert other.merge(file, {}) == (0, 0)
        assert set(other.measurements()) == set(rows)
        assert other.add_measurements(rows) == 0  # a hash outlives the journey


def test_rows_that_no_such_gpu_can_do_are_kept_back_as_they_merge(tmp_path: Path) -> None:
    """2 x 8192^3 FLOPs in a nanosecond, and in a second."""
    h100 = shipped_skus()["h100-sxm"]
    sizes = (("in_features", 8192), ("out_features", 8192), ("rows", 8192))
    gemm = KernelCase("linear", "bf16", "", sizes)
    timed = [Measurement(gemm, h100.name, Origin("vidur"), Timing(s)) for s in (1e-9, 1.0)]
    file = tmp_path / "fast.parquet"
    with Store.open(":memory:") as one, Store.open(":memory:") as other:
        one.add_measurements(timed)
        one.export(file)
        assert other.merge(file, {h100.name: h100}) == (2, 1)
        assert other.kernel_data(h100.name, "linear", ("bf16", ""), ["vidur"]).seconds == [1.0]
        assert IMPOSSIBLE in {line.quarantine for line in other.contents()}


def test_a_merged_row_without_its_kernels_sizes_is_refused(tmp_path: Path) -> None:
    h100 = shipped_skus()["h100-sxm"]
    row = Measurement(
        KernelCase("linear", "bf16", "", (("rows", 8),)), h100.name, Origin("vidur"), Timing(1.0)
    )
    file = tmp_path / "short.parquet"
    with Store.open(":memory:") as one, Store.open(":memory:") as other:
        one.add_measurements([row])
        one.export(file)
        with pytest.raises(DataMissingError, match=r"short\.parquet: not an export .*in_features"):
            other.merge(file, {h100.name: h100})
        assert other.contents() == ()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("'nan'::DOUBLE AS mean_s", "column mean_s: nan is not a positive time in s"),
        ("-1.0::DOUBLE AS mean_s", "column mean_s: -1.0 is not a positive time in s"),
        ("NULL AS mean_s", "column mean_s: an empty cell is not a positive time in s"),
        ("-2e-6::DOUBLE AS min_s", "column min_s: -2e-06 is not a time in s"),
        ("NULL AS rows", "column rows: an empty cell is not a whole number of at least 1"),
        ("-4 AS rows", "column rows: -4 is not a whole number of at least 1"),
        ("NULL AS sku", "column sku: an empty cell is not a text"),
    ],
)
def test_a_bad_cell_of_an_export_is_named_and_nothing_is_merged(
    tmp_path: Path, cell: str, message: str
) -> None:
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    with Store.open(":memory:") as one, Store.open(":memory:") as other:
        one.add_measurements([measured(8), measured(9), measured(10)])
        one.export(good)
        value, column = cell.split(" AS ")
        changed = f"if(file_row_number = 1, {value}, {column}) AS {column}"
        numbered = f"read_parquet('{good}', file_row_number = true)"
        rows = f"SELECT * EXCLUDE (file_row_number) REPLACE ({changed}) FROM {numbered}"
        duckdb.sql(f"COPY ({rows}) TO '{bad}' (FORMAT parquet)")
        with pytest.raises(DataMissingError, match=rf"bad\.parquet: row 2: {message}"):
            other.merge(bad, {})
        assert other.contents() == ()


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        ((1e-5, 1e-5, 1e-4), "row [123]: column mean_s: .* contradicts the .* of the same case in"),
        ((1e-5, 3e-2, 2e-5), "row [123]: column mean_s: 0.03 s beside .* of another rows alone"),
        ((1e-5, 4e-5, 2e-5), None),  # restless, and said so by nobody
    ],
)
def test_an_export_that_disagrees_with_itself_is_refused_and_nothing_is_merged(
    tmp_path: Path, seconds: tuple[float, ...], message: str | None
) -> None:
    """Two times of 16 rows, the first of them beside one of 8: ten times apart, or a thousand."""
    file = tmp_path / "twice.parquet"
    rows = [
        Measurement(case(size), "gpu", Origin("agent"), Timing(each))
        for size, each in zip((8, 16, 16), seconds, strict=True)
    ]
    if message is not None and "beside" in message:
        rows.pop()
    with Store.open(":memory:") as one, Store.open(":memory:") as other:
        one.add_measurements(rows)
        one.export(file)
        if message is None:
            assert other.merge(file, {}) == (3, 0)
            return
        with pytest.raises(DataMissingError, match=rf"twice\.parquet: {message}"):
            other.merge(file, {})
        assert other.contents() == ()


def test_what_was_flagged_may_differ(tmp_path: Path) -> None:
    file = tmp_path / "flagged.parquet"
    calm = Measurement(case(8), "gpu", Origin("agent"), Timing(1e-5))
    with Store.open(":memory:") as one, Store.open(":memory:") as other:
        one.add_measurements([calm, replace(calm, timing=Timing(1e-3), flags=("drifting",))])
        one.export(file)
        assert other.merge(file, {}) == (2, 0)


@pytest.mark.parametrize("content", [b"hello", b""])
def test_merging_what_is_no_export_changes_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other.parquet"
    file.write_bytes(content)
    with Store.open(":memory:") as store:
        store.add_measurements([measured(8)])
        with pytest.raises(DataMissingError, match=r"other\.parquet: not an export"):
            store.merge(file, {})
        assert len(store.measurements()) == 1


def test_garbage_is_what_can_be_computed_again() -> None:
    with Store.open(":memory:") as store:
        store.add_measurements([measured(8)])
        store.put_cached("key", "model", b"body")
        assert store.cached("key") == b"body"
        assert store.collect_garbage() == 1
        assert store.cached("key") is None
        assert store.measurements() == [measured(8)]


def test_a_slow_query_draws_no_progress_bar_on_stdout() -> None:
    """DuckDB would draw one where Python has no main file, amid the JSON of a command called from there."""
    ask = (
        "from servecast.estimator.store import Store\n"
        "with Store.open(':memory:') as store:\n"
        "    setting = \"SELECT current_setting('enable_progress_bar')\"\n"
        "    print(store._sql.execute(setting).fetchall())"
    )
    told = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True)
    assert told.stdout == "[(False,)]\n"


def test_what_is_kept_in_parts_comes_back_whole_and_counts_once() -> None:
    long = bytes(range(256)) * 40  # in three parts
    with Store.open(":memory:") as store:
        for body in (b"shorter", long):  # the later one stays
            store.put_cached("ab", "model", body)
        store.put_cached("ab notes", "notes", b"")
        store.put_cached("abc", "tables", b"x" * 4000)
        assert [store.cached(key) for key in ("ab", "ab notes", "abc")] == [long, b"", b"x" * 4000]
        assert store.cached("a") is None
        store.put_cached("ab", "model", b"shorter")
        assert store.cached("ab") == b"shorter"
        assert store.artefacts() == {"model": 1, "notes": 1, "tables": 1}
        assert store.collect_garbage() == 3
        assert store.cached("ab") is None
