"""Importers: real files row by row, and bad ones named by row and column with nothing taken."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest

from servecast.compiler.catalog import shipped_skus
from servecast.compiler.errors import DataMissingError
from servecast.estimator.importers.llmservingsim import import_llmservingsim
from servecast.estimator.importers.silicon import SiliconQuery, data_root, import_silicon
from servecast.estimator.importers.silicon_tables import LATENT_DIMS
from servecast.estimator.importers.vidur import Skipped, import_vidur
from servecast.estimator.intake import import_folder
from servecast.estimator.physics import KernelKind, work_of
from servecast.estimator.quarantine import IMPOSSIBLE
from servecast.estimator.sources import chosen_samples
from servecast.estimator.store import Store

needs_silicon = pytest.mark.skipif(
    data_root() is None, reason="aiconfigurator-core is not installed"
)

HEADER = (
    "time_stats.all_reduce.min,time_stats.all_reduce.max,time_stats.all_reduce.mean,"
    "time_stats.all_reduce.median,time_stats.all_reduce.std,num_workers,size,devices_per_node"
)


def network(folder: Path, *rows: str, header: str = HEADER) -> Path:
    """A folder with one all-reduce profile of an H100 node."""
    path = folder / "network" / "h100_dgx" / "all_reduce.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return folder


@needs_silicon
@pytest.mark.slow
def test_silicon_rows_arrive_in_our_vocabulary_and_units() -> None:
    with Store.open(":memory:") as store:
        store.add_batches(import_silicon(SiliconQuery("h100-sxm")))
        gemm = store.kernel_data("h100-sxm", "linear", ("bf16", ""), ["silicon"])
        at = {"rows": 1024, "in_features": 4096, "out_features": 4096}
        row = np.logical_and.reduce([gemm.dims[name] == size for name, size in at.items()])
        assert gemm.seconds[row] == pytest.approx([43.1e-6], rel=0.01)
        decode = store.kernel_data("h100-sxm", "attention_decode", ("bf16", "bf16"), ["silicon"])
        shape = {"heads": 32, "kv_heads": 8, "head_dim": 128, "window": 0}
        at = {**shape, "batch": 16, "context": 4095}
        row = np.logical_and.reduce([decode.dims[name] == size for name, size in at.items()])
        assert decode.seconds[row] == pytest.approx([113e-6], rel=0.01)


@needs_silicon
@pytest.mark.slow
def test_silicon_rows_known_to_be_wrong_are_kept_back_with_a_reason() -> None:
    with Store.open(":memory:") as store:
        store.add_batches(import_silicon(SiliconQuery("h100-sxm")))
        kept_back = {(c.kernel, c.dtype): c.quarantine for c in store.contents() if c.quarantine}
    assert "without a CUDA graph" in kept_back["linear", "fp8_block"]
    assert "modelopt" in kept_back["experts", "fp8"]


@needs_silicon
def test_the_a100_takes_its_gemms_from_the_full_grid() -> None:
    batches = list(import_silicon(SiliconQuery("a100-sxm-80gb")))
    (gemm,) = (b for b in batches if b.kernel == "linear")
    assert "sglang" in gemm.origin.file
    assert len(np.unique(gemm.dims["rows"])) == 74
    assert {b.origin.licence for b in batches} == {"Apache-2.0"}


@needs_silicon
def test_importing_silicon_twice_adds_nothing() -> None:
    query = SiliconQuery("a100-sxm-80gb")
    with Store.open(":memory:") as store:
        assert store.add_batches(import_silicon(query)) > 50_000
        assert store.add_batches(import_silicon(query)) == 0


def test_a_sku_without_silicon_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"no data for 'tpu'; it has a100-sxm-80gb, "):
        list(import_silicon(SiliconQuery("tpu"), root=tmp_path))


def test_vidur_reads_milliseconds_and_bytes(tmp_path: Path) -> None:
    folder = network(tmp_path, "0.3,0.4,0.36,0.35,0.01,8,67108864,8")
    (row,) = import_vidur(folder, Skipped())
    assert (row.case.kernel, row.sku) == ("all_reduce", "h100-sxm")
    assert dict(row.case.dims) == {"degree": 8, "payload_bytes": 67108864}
    assert row.timing is not None
    assert row.timing.median_s == pytest.approx(0.35e-3)


def test_vidur_rows_between_nodes_are_counted_not_taken(tmp_path: Path) -> None:
    skipped = Skipped()
    folder = network(tmp_path, "1,1,1,1,0,8,2048,4", "1,1,1,1,0,8,4096,8")
    assert len(import_vidur(folder, skipped)) == 1
    assert skipped.reasons == {"h100_dgx: all_reduce between nodes": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "1,1,1,nan,0,8,2048,8",
            r"all_reduce.csv:3: column time_stats.all_reduce.median: 'nan' is not",
        ),
        ("1,1,-1,1,0,8,2048,8", r":3: column time_stats.all_reduce.mean: '-1' is not a time"),
        (
            "1,1,0,1,0,8,2048,8",
            r":3: column time_stats.all_reduce.mean: 0 ms is not a positive time",
        ),
        ("1,1,1,1,0,8,many,8", r":3: column size: 'many' is not a whole number"),
        ("1,1,1,1,0,8,2048.5,8", r":3: column size: '2048.5' is not a whole number"),
        ("1,1,1,1,0,8,1e30,8", r":3: column size: '1e30' is not a whole number"),
        ("1,1,1,1,0,8,0,8", r":3: column size: must be at least 1, not 0"),
        ("1,1,1,1,0,8,2048", r":3: column devices_per_node: the line ends before it"),
        ("1,1,1,1,0,8,2,048,8", r"all_reduce.csv:3: more cells than the header has"),
        (
            "9,9,9,9,0,8,1024,8",
            r":3: column time_stats.all_reduce.median: 9 ms contradicts the 1 ms .* in line 2",
        ),
    ],
)
def test_a_bad_vidur_cell_is_named_and_nothing_is_taken(
    tmp_path: Path, row: str, message: str
) -> None:
    folder = network(tmp_path, "1,1,1,1,0,8,1024,8", row)
    with pytest.raises(DataMissingError, match=message):
        import_vidur(folder, Skipped())


def test_a_vidur_time_in_another_unit_is_named(tmp_path: Path) -> None:
    """Milliseconds all but the last, which is in microseconds."""
    rows = [
        f"{t},{t},{t},{t},0,8,{s},8" for s, t in ((2**i, 0.01 + 1e-9 * 2**i) for i in range(10))
    ]
    folder = network(tmp_path, *rows, "10,10,10,10,0,8,2000,8")
    column = r"column time_stats\.all_reduce\.median"
    message = rf"all_reduce.csv:12: {column}: 10 ms is 9\d\d times as long .* another unit"
    with pytest.raises(DataMissingError, match=message):
        import_vidur(folder, Skipped())


@pytest.mark.parametrize(("size", "ms"), [(2000, 0.005), (2**30, 1e-5)])
def test_a_slow_nodes_row_in_another_unit_is_named_though_a_gpu_might_be_so_fast(
    tmp_path: Path, size: int, ms: float
) -> None:
    """5 ms at least, whatever is sent: the last is in seconds, or of a gigabyte sooner than any launch."""
    rows = [f"{t},{t},{t},{t},0,8,{2**i},8" for i, t in ((i, 5 + 1e-9 * 2**i) for i in range(10))]
    folder = network(tmp_path, *rows, f"{ms},{ms},{ms},{ms},0,8,{size},8")
    with pytest.raises(DataMissingError, match=r"all_reduce.csv:12: .* times as short .* unit"):
        import_vidur(folder, Skipped())


def test_a_launch_that_failed_is_left_to_physics(tmp_path: Path) -> None:
    """Two milliseconds each, and two microseconds for a gigabyte."""
    rows = [f"2,2,2,2,0,8,{2**i},8" for i in range(10)]
    folder = network(tmp_path, *rows, f"0.002,0.002,0.002,0.002,0,8,{2**30},8")
    with Store.open(":memory:") as store:
        assert import_folder(store, "vidur", folder).kept_back == {IMPOSSIBLE: 1}


def test_a_missing_vidur_column_is_named(tmp_path: Path) -> None:
    folder = network(tmp_path, "1,1,1,1,0,8,1024", header=HEADER.removesuffix(",devices_per_node"))
    with pytest.raises(
        DataMissingError, match=r"no column devices_per_node; is it a Vidur profile"
    ):
        import_vidur(folder, Skipped())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"all_reduce.csv: no lines below the header; is it a Vidur profile\?"),
        (HEADER.encode() + b"\n", r"all_reduce.csv: no lines below the header"),
        (b"\xff\xfe\x00", r"all_reduce.csv: is not a Vidur profile: 'utf-8' codec"),
        (HEADER.replace(",", ";").encode() + b"\n1;1\n", r"no column num_workers"),
        (HEADER.encode() + b"\n" + b"1" * 200_000, r"field larger than field limit"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    network(tmp_path)
    (tmp_path / "network" / "h100_dgx" / "all_reduce.csv").write_bytes(content)
    with pytest.raises(DataMissingError, match=message):
        import_vidur(tmp_path, Skipped())


def test_the_mark_that_a_spreadsheet_puts_before_a_table_is_passed_over(tmp_path: Path) -> None:
    folder = network(tmp_path, "1,1,1,1,0,8,2048,8", header="\ufeff" + HEADER)
    assert len(import_vidur(folder, Skipped())) == 1


ATTENTION = (
    "time_stats.attn_kv_cache_save.median,num_tensor_parallel_workers,n_q_head,n_kv_head,n_embd,"
    "batch_size,kv_cache_size,prefill_chunk_size,is_prefill"
)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,0,32,8,4096,1,0,8,True", r"num_tensor_parallel_workers: must be at least 1, not 0"),
        ("1,7,32,8,4096,1,0,8,True", r"num_tensor_parallel_workers: 7 ranks do not divide 32"),
        ("1,1,0,8,4096,1,0,8,True", r"n_q_head: must be at least 1, not 0"),
        ("1,1,32,8,4096,0,9,0,False", r"batch_size: must be at least 1, not 0"),
        ("1,1,32,8,4096,1,0,0,True", r"prefill_chunk_size: must be at least 1, not 0"),
        ("1,1,32,8,4096,1,0,8,yes", r"is_prefill: 'yes' is neither True nor False"),
    ],
)
def test_a_vidur_shape_that_no_model_has_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "compute" / "h100" / "acme" / "m" / "attention.csv"
    path.parent.mkdir(parents=True)
    path.write_text(f"{ATTENTION}\n{row}\n")
    with pytest.raises(DataMissingError, match=f"attention.csv:2: column {message}"):
        import_vidur(tmp_path, Skipped())


def test_a_folder_without_profiles_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"no compute/<sku>/<model>/mlp.csv"):
        import_vidur(tmp_path, Skipped())


@pytest.mark.slow
def test_vidurs_own_profiles_obey_physics(shared_data: Path) -> None:
    """The units are right: no H100 GEMM beats its 989 TFLOP/s, and the largest come near."""
    rows = import_vidur(shared_data / "profiles" / "vidur", Skipped())
    gemms = [r for r in rows if r.sku == "h100-sxm" and r.case.kernel == "linear"]
    names = [name for name, _ in gemms[0].case.dims]
    dims = {n: np.array([dict(r.case.dims)[n] for r in gemms]) for n in names}
    seconds = np.array([r.timing.mean_s for r in gemms if r.timing])
    rates = work_of(KernelKind("linear", "bf16"), dims).flops / seconds
    assert 0.6 * 989e12 < rates.max() < 989e12


def serving_profile(folder: Path, name: str, text: str) -> Path:
    """One file of an LLMServingSim profile of Llama 3.1 8B on two ranks of an RTX 4090."""
    path = folder / "RTX4090" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp2" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def test_llmservingsim_layers_become_one_ranks_kernels(tmp_path: Path) -> None:
    text = "layer,tokens,time_us\nqkv_proj,8,20\nlayernorm,8,2\nrouter,8,2\n"
    skipped = Skipped()
    folder = serving_profile(tmp_path, "dense.csv", text)
    rows = import_llmservingsim(folder, skipped)
    qkv, norm = (row.case for row in rows)
    assert (qkv.kernel, dict(qkv.dims)) == (
        "linear",
        {"rows": 8, "in_features": 4096, "out_features": (16 + 2 * 4) * 128},
    )
    assert (norm.kernel, dict(norm.dims)["residual"]) == ("rms_norm", 1)
    assert rows[0].timing is not None
    assert rows[0].timing.mean_s == pytest.approx(20e-6)
    assert skipped.reasons == {"dense.csv: router": 1}


def test_llmservingsim_mixed_steps_are_launches_of_their_own(tmp_path: Path) -> None:
    text = (
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
        "16,32,0,0,9\n0,0,4,64,8\n16,0,4,64,9\n16,32,4,64,9\n"
    )
    skipped = Skipped()
    prefill, decode, mixed = import_llmservingsim(
        serving_profile(tmp_path, "attention.csv", text), skipped
    )
    swept = dict(prefill.case.dims)
    assert (swept["batch"], swept["context"], swept["chunk"]) == (1, 32, 16)
    assert (decode.case.kernel, dict(decode.case.dims)["batch"]) == ("attention_decode", 4)
    swept = dict(mixed.case.dims)
    assert mixed.case.kernel == "attention_mixed"
    assert (swept["batch"], swept["context"], swept["chunk"]) == (4, 64, 16)
    assert skipped.reasons == {"attention.csv: decodes beside a prefill with history": 1}


def test_an_expert_parallel_ranks_share_is_a_row_of_the_whole_layers_profile(
    tmp_path: Path,
) -> None:
    """128 experts, 8 chosen: one token hits 8, half of the experts see 4 of them; two tokens' share for one
    of two ranks is the row with 1 token and 8 experts hit. Of the two tokens' 16 rows 8 go to the other rank:
    1.5 KiB a matrix of 768 wide, five of them zeroed, written and read, and 4 KiB of 2048 zeroed and read.
    """
    text = "tokens,activated_experts,time_us\n1,8,50\n"
    folder = tmp_path / "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp1"
    folder.mkdir(parents=True)
    (folder / "moe.csv").write_text(text)
    rows = import_llmservingsim(tmp_path, Skipped())
    found = [(dict(r.case.dims)["experts"], dict(r.case.dims)["rows"]) for r in rows]
    assert found == [(128, 1), (64, 2), (32, 4), (16, 8)]
    whole_s, half_s, *_ = [r.timing.mean_s for r in rows if r.timing]
    others_s = 8 * (5 * 768 + 2 * 2048) * 2 / shipped_skus()["rtx-pro-6000"].bandwidth_bytes_per_s
    assert (whole_s, half_s) == pytest.approx((50e-6, 50e-6 + others_s))


def test_experts_that_uniform_routing_hits_lie_between_measured_counts(tmp_path: Path) -> None:
    """Sixteen tokens hit 128 * (1 - (15 / 16) ** 16) = 82.42 experts, between 64 and 128. Of a rank with 64
    they hit 41.21.
    """
    text = (
        "tokens,activated_experts,time_us\n16,32,200\n16,64,400\n16,128,800\n8,32,100\n8,64,200\n"
    )
    folder = tmp_path / "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp1"
    folder.mkdir(parents=True)
    (folder / "moe.csv").write_text(text)
    seconds = {
        (dict(r.case.dims)["experts"], dict(r.case.dims)["rows"]): r.timing.mean_s
        for r in import_llmservingsim(tmp_path, Skipped())
        if r.timing
    }
    assert seconds[128, 16] == pytest.approx(400e-6 + (82.42 - 64) / 64 * 400e-6, rel=1e-4)
    assert seconds[64, 16] == pytest.approx(100e-6 + (41.21 - 32) / 32 * 100e-6, rel=1e-2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "layer,tokens,time_us\nact_fn,8,-1\n",
            r"dense.csv:2: column time_us: '-1' is not a time in us",
        ),
        (
            "layer,tokens,time_us\nact_fn,8,0\n",
            r"dense.csv:2: column time_us: 0 us is not a positive",
        ),
        ("layer,time_us\nact_fn,5\n", r"dense.csv: no column tokens"),
        ("layer,tokens,time_us\nact_fn,0,5\n", r":2: column tokens: must be at least 1, not 0"),
        ("layer,tokens,time_us\nact_fn,1.5,5\n", r"tokens: '1.5' is not a whole number"),
        ("layer,tokens,time_us\nact_fn,8\n", r":2: column time_us: the line ends before it"),
        (
            "layer,tokens,time_us\nact_fn,8,9\nqkv_proj,8,70\nact_fn,8,3\nact_fn,8,2.9\n",
            r"dense.csv:5: column time_us: 0.0029 ms contradicts the 0.009 ms .* in line 2",
        ),
        (
            "layer,tokens,time_us\n"
            + "".join(f"qkv_proj,{tokens},{20 + tokens}\n" for tokens in range(1, 10))
            + "qkv_proj,10,0.03\n",
            r"dense.csv:11: column time_us: 3e-05 ms is \d+ times as short .* linear .* another unit",
        ),
    ],
)
def test_a_bad_llmservingsim_cell_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataMissingError, match=message):
        import_llmservingsim(serving_profile(tmp_path, "dense.csv", text), Skipped())


def test_a_serving_step_that_ran_nothing_is_named(tmp_path: Path) -> None:
    text = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,0,64,9\n"
    with pytest.raises(DataMissingError, match=r"attention.csv:2: .* without a chunk"):
        import_llmservingsim(serving_profile(tmp_path, "attention.csv", text), Skipped())


@pytest.mark.parametrize("tp", ["tp0", "tpx", "tp3"])
def test_a_folder_of_ranks_that_cannot_be_is_named(tmp_path: Path, tp: str) -> None:
    text = "layer,tokens,time_us\nqkv_proj,8,20\n"
    serving_profile(tmp_path, "dense.csv", text)
    folder = tmp_path / "RTX4090" / "meta-llama" / "Llama-3.1-8B" / "bf16"
    (folder / "tp2").rename(folder / tp)
    with pytest.raises(DataMissingError, match=f"no such tensor parallelism .* as '{tp}'"):
        import_llmservingsim(tmp_path, Skipped())


def test_of_a_folder_with_a_contradiction_nothing_is_imported(tmp_path: Path) -> None:
    serving_profile(tmp_path, "dense.csv", "layer,tokens,time_us\nqkv_proj,8,20\n")
    twice = "layer,sequences,time_us\nlm_head,8,20\nlm_head,8,90\n"
    serving_profile(tmp_path, "per_sequence.csv", twice)
    with Store.open(":memory:") as store:
        with pytest.raises(
            DataMissingError, match=r"per_sequence.csv:3: column time_us: .* line 2"
        ):
            import_folder(store, "llmservingsim", tmp_path)
        assert store.contents() == ()


def test_an_unknown_llmservingsim_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "H100" / "acme" / "m" / "bf16" / "tp1" / "dense.csv"
    path.parent.mkdir(parents=True)
    path.write_text("layer,tokens,time_us\n")
    with pytest.raises(DataMissingError, match="unknown model 'acme/m'; known are meta-llama"):
        import_llmservingsim(tmp_path, Skipped())


@needs_silicon
def test_each_engine_brings_its_own_kernels_under_its_own_name() -> None:
    with Store.open(":memory:") as store:
        store.add_batches(import_silicon(SiliconQuery("b200-sxm", "trtllm")))
        store.add_batches(import_silicon(SiliconQuery("b200-sxm", "sglang")))
        origins = store.origins("b200-sxm", ["silicon_trtllm", "silicon_sglang"])
        latent = store.kernel_data("b200-sxm", "latent_decode", ("bf16", "fp8"), ["silicon_sglang"])
    assert {"silicon_trtllm", "silicon_sglang"} == {line.source for line in origins}
    assert set(latent.dims) == {"heads", "batch", "context", *LATENT_DIMS}
    # 1.3.0rc23 holds a few models' experts, 1.3.0rc20 the whole table.
    assert "b200_sxm/moe/trtllm/1.3.0rc20/moe_perf.parquet" in {line.file for line in origins}


@needs_silicon
def test_of_two_kernels_of_one_engine_the_faster_answers() -> None:
    batches = import_silicon(SiliconQuery("b200-sxm", "trtllm"))
    nvfp4 = [
        b for b in batches if (b.kernel, b.dtype, b.variant) == ("experts", "nvfp4", "balanced")
    ]

    def times_s(kept_back: bool) -> dict[tuple[int, ...], float]:
        return {
            tuple(int(column[i]) for column in b.dims.values()): float(b.times_s["mean_s"][i])
            for b in nvfp4
            if (b.quarantine is not None) == kept_back
            for i in range(b.num_rows)
        }

    kept, left_out = times_s(kept_back=False), times_s(kept_back=True)
    assert left_out
    assert all(kept[case] <= slower_s for case, slower_s in left_out.items())


def table(root: Path, where: str, columns: str, *rows: str) -> None:
    """A table of an H100 in the public package's layout, from SQL values."""
    path = root / "h100_sxm" / where
    path.parent.mkdir(parents=True)
    values = ", ".join(f"({row})" for row in rows)
    with duckdb.connect() as sql:
        sql.execute(f"COPY (SELECT * FROM (VALUES {values}) t({columns})) TO '{path}'")


def test_finding_an_inputs_scale_is_no_part_of_a_static_checkpoints_gemm(tmp_path: Path) -> None:
    columns = "gemm_dtype, m, n, k, latency"
    rows = ("'fp8', 8, 64, 256, 0.013", "'fp8', 9, 64, 256, 0.013", "'bfloat16', 8, 64, 256, 0.01")
    for backend in ("trtllm", "vllm"):
        table(tmp_path, f"gemm/{backend}/1.0/gemm_perf.parquet", columns, *rows)
        scales = f"quantize/{backend}/1.0/computescale_perf.parquet"
        table(tmp_path, scales, "quant_dtype, m, k, latency", "'fp8', 8, 256, 0.008")

    def times_s(backend: str) -> dict[str, list[float]]:
        batches = import_silicon(SiliconQuery("h100-sxm", backend), tmp_path)
        return {batch.dtype: batch.times_s["mean_s"].tolist() for batch in batches}

    assert times_s("trtllm")["fp8"] == pytest.approx([5e-6, 13e-6])  # the second was not timed
    assert times_s("trtllm")["bf16"] == pytest.approx([10e-6])
    assert times_s("vllm")["fp8"] == pytest.approx([13e-6, 13e-6])  # its layer has a static scale


def test_experts_are_routed_by_a_mild_power_law_where_it_was_timed(tmp_path: Path) -> None:
    columns = (
        "moe_dtype, distribution, kernel_source, num_tokens, hidden_size, inter_size, topk, num_experts, "
        "moe_tp_size, moe_ep_size, latency"
    )
    sizes = "32, 64, 32, 8, 256, 1, 1"
    rows = [
        f"'bfloat16', '{name}', 'k', {sizes}, {ms}"
        for name, ms in (("balanced", 0.5), ("power_law_1.01", 0.3), ("power_law_1.2", 0.28))
    ]
    table(tmp_path, "moe/vllm/1.0/moe_perf.parquet", columns, *rows)
    with Store.open(":memory:") as store:
        store.add_batches(import_silicon(SiliconQuery("h100-sxm"), tmp_path))
        data = store.kernel_data("h100-sxm", "experts", ("bf16", ""), ["silicon"])
    assert chosen_samples(data).seconds.tolist() == pytest.approx([0.3e-3])


def test_the_convolution_and_the_rule_of_linear_attention_are_one_kernel(tmp_path: Path) -> None:
    columns = (
        "op_name, kernel_source, phase, batch_size, seq_len, num_v_heads, num_k_heads, head_v_dim, "
        "latency"
    )
    rows = [
        "'gdn', 'conv', 'context', 1, 64, 8, 2, 128, 0.004",
        "'gdn', 'rule', 'context', 1, 64, 8, 2, 128, 0.040",
        "'gdn', 'conv', 'generation', 16, 1, 8, 2, 128, 0.002",
        "'gdn', 'rule', 'generation', 16, 1, 8, 2, 128, 0.006",
        "'gdn', 'rule', 'generation', 32, 1, 8, 2, 128, 0.007",  # its convolution is missing
    ]
    table(tmp_path, "linear_attention/vllm/1.0/gdn_perf.parquet", columns, *rows)
    with Store.open(":memory:") as store:
        store.add_batches(import_silicon(SiliconQuery("h100-sxm"), tmp_path))
        formats = ("bf16", "fp32")
        prefill = store.kernel_data("h100-sxm", "delta_prefill", formats, ["silicon"])
        decode = store.kernel_data("h100-sxm", "delta_decode", formats, ["silicon"])
    assert prefill.seconds.tolist() == pytest.approx([44e-6])
    assert (prefill.dims["chunk"].tolist(), prefill.dims["heads"].tolist()) == ([64], [8])
    assert decode.seconds.tolist() == pytest.approx([8e-6])
    assert decode.dims["batch"].tolist() == [16]


GEMM = "'bfloat16' AS gemm_dtype, 8 AS m, 64 AS n, 64 AS k, 0.01 AS latency"


@needs_silicon
@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("'nan'::DOUBLE AS latency", "row 2: column latency: nan is not a positive time in ms"),
        ("-1.0::DOUBLE AS latency", "row 2: column latency: -1.0 is not a positive time in ms"),
        ("0::DOUBLE AS latency", "row 2: column latency: 0.0 is not a positive time"),
        ("NULL AS latency", "row 2: column latency: an empty cell is not a positive time"),
        ("-8 AS m", "row 2: column m: -8 is not a whole number of at least 1"),
        ("NULL AS gemm_dtype", "row 2: column gemm_dtype: an empty cell is not a text"),
        (
            "0.051 AS latency",
            r"row 2: column latency: 0.051 ms contradicts the 0.01 ms .* in row 1",
        ),
        ("0.0019 AS latency", "row 2: column latency: 0.0019 ms contradicts the 0.01 ms"),
    ],
)
def test_a_bad_cell_of_a_packages_table_is_named_and_nothing_is_taken(
    tmp_path: Path, cells: str, message: str
) -> None:
    """The folder's name is no column of the table, though other readers of Parquet would have it so."""
    file = tmp_path / "m=7" / "h100_sxm" / "gemm" / "vllm" / "1.0.0" / "gemm_perf.parquet"
    file.parent.mkdir(parents=True)
    rows = f"SELECT {GEMM} UNION ALL SELECT * REPLACE ({cells}) FROM (SELECT {GEMM})"
    query, root = SiliconQuery("h100-sxm"), tmp_path / "m=7"
    with Store.open(":memory:") as store:
        duckdb.sql(f"COPY (SELECT {GEMM}) TO '{file}'")
        assert store.add_batches(import_silicon(query, root)) == 1
        duckdb.sql(f"COPY ({rows}) TO '{file}'")
        with pytest.raises(DataMissingError, match=rf"gemm_perf\.parquet: {message}"):
            store.add_batches(import_silicon(query, root))
        assert sum(line.rows for line in store.contents()) == 1


@needs_silicon
@pytest.mark.parametrize("cells", ["0.049 AS latency", "0.051 AS latency, 9 AS m"])
def test_two_times_of_a_packages_case_may_differ_fivefold(tmp_path: Path, cells: str) -> None:
    """An H200's NCCL table has one that is 4.2 times the other; of two cases nothing is compared."""
    file = tmp_path / "h100_sxm" / "gemm" / "vllm" / "1.0.0" / "gemm_perf.parquet"
    file.parent.mkdir(parents=True)
    rows = f"SELECT {GEMM} UNION ALL SELECT * REPLACE ({cells}) FROM (SELECT {GEMM})"
    duckdb.sql(f"COPY ({rows}) TO '{file}'")
    (batch,) = import_silicon(SiliconQuery("h100-sxm"), tmp_path)
    assert batch.num_rows == 2


@needs_silicon
@pytest.mark.parametrize(
    ("m", "ms", "message"),
    [
        (
            (8, 16, 32),
            (0.01, 0.02, 40),
            "row 3: column latency: 40 ms beside 0.02 ms in row 2, .* m ",
        ),
        ((8, 16, 32), (10, 0.02, 0.04), "row 2: column latency: 0.02 ms beside 10 ms in row 1"),
        (
            (32, 16, 8),
            (0.04, 0.02, 1e-5),
            "row 2: column latency: 0.02 ms beside 1e-05 ms in row 3",
        ),
        ((8, 16, 32), (0.01, 2, 0.01), None),  # tables jump so: by up to 191 times
        ((1, 1024), (0.01, 3000), None),  # and more work may take as much longer
    ],
)
def test_a_packages_times_in_another_unit_than_those_of_a_like_size_are_named(
    tmp_path: Path, m: tuple[int, ...], ms: tuple[float, ...], message: str | None
) -> None:
    rows = [f"'bfloat16', {size}, 64, 64, {time}" for size, time in zip(m, ms, strict=True)]
    table(tmp_path, "gemm/vllm/1.0/gemm_perf.parquet", "gemm_dtype, m, n, k, latency", *rows)
    with Store.open(":memory:") as store:
        if message is None:
            assert store.add_batches(import_silicon(SiliconQuery("h100-sxm"), tmp_path)) == len(m)
            return
        with pytest.raises(DataMissingError, match=message):
            store.add_batches(import_silicon(SiliconQuery("h100-sxm"), tmp_path))
        assert not list(store.contents())


@needs_silicon
def test_a_packages_table_without_a_column_or_of_another_kind_is_named(tmp_path: Path) -> None:
    file = tmp_path / "h100_sxm" / "gemm" / "vllm" / "1.0.0" / "gemm_perf.parquet"
    file.parent.mkdir(parents=True)
    duckdb.sql(f"COPY (SELECT * EXCLUDE (m) FROM (SELECT {GEMM})) TO '{file}'")
    with pytest.raises(DataMissingError, match=r"gemm_perf\.parquet: no column m; is it a table"):
        list(import_silicon(SiliconQuery("h100-sxm"), tmp_path))
    file.write_text("m,n,k\n")
    with pytest.raises(DataMissingError, match=r"gemm_perf\.parquet: is not a table of aiconf"):
        list(import_silicon(SiliconQuery("h100-sxm"), tmp_path))
