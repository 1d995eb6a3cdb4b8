"""Runtime tables: hand-worked cells of the small model, and laws over all cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from servecast.compiler.attention import Attention
from servecast.compiler.hardware import Sku
from servecast.compiler.ir import Linear
from servecast.compiler.sharded import Rows, Run, ShardedProgram
from servecast.estimator import saved_tables
from servecast.estimator.build import build_tables
from servecast.estimator.engine_profile import ENGINE_PROFILES, EngineProfile
from servecast.estimator.measurement import MeasurementBatch, Origin
from servecast.estimator.predictor import Predictor
from servecast.estimator.sources import predictor_from
from servecast.estimator.store import Store
from servecast.estimator.tables import (
    SOURCES,
    RuntimeTables,
    Source,
    StepWork,
    TableBounds,
    time_by_source,
)

BOUNDS = TableBounds(
    max_batched_tokens=64, max_num_seqs=8, max_context_tokens=4096, kv_capacity_tokens=4096
)
KERNELS = ENGINE_PROFILES["none"]
LAYERS = 2
Model = Callable[..., ShardedProgram]


def tables_of(
    program: ShardedProgram, predictor: Predictor, engine: EngineProfile = KERNELS
) -> RuntimeTables:
    return build_tables(program, predictor.sku, BOUNDS, predictor, engine)


def test_the_shapes_are_those_the_bounds_ask_for(model: Model, predictor: Predictor) -> None:
    tables = tables_of(model(pp=2), predictor)
    assert tables.token_s.shape == tables.send_s.shape == (2, 65)
    assert tables.sequence_s.shape == (2, 9)
    assert tables.decode_s.shape == (2, 9, 4096 // tables.kv_step_tokens + 1)
    assert tables.prefill_s.shape[1:] == (
        4096 // tables.context_step_tokens + 1,
        64 // tables.chunk_step_tokens + 1,
    )
    assert tables.token_shares.shape == (65, len(SOURCES))


def test_no_work_takes_no_time(model: Model, predictor: Predictor) -> None:
    tables = tables_of(model(pp=2), predictor, ENGINE_PROFILES["vllm-0.12"])
    for name in ("token_s", "sequence_s", "send_s"):
        assert (getattr(tables, name)[:, 0] == 0).all()
    assert (tables.prefill_s[:, :, 0] == 0).all()
    assert (tables.decode_s[:, 0, :] == 0).all()


def test_a_step_costs_its_layers_projections(model: Model, predictor: Predictor) -> None:
    measured = 3e-6 + 1.5 * (2 * (256 * 256 + 64 * 512)) / 1e12
    assert tables_of(model(), predictor).token_s[0, 64] == pytest.approx(
        LAYERS * measured, rel=1e-6
    )


def test_a_cache_write_inside_the_attention_samples_is_not_charged_twice(
    model: Model, predictor: Predictor
) -> None:
    apart = replace(predictor, attention_writes_kv=False)
    program = model()
    assert tables_of(program, apart).token_s[0, 64] > tables_of(program, predictor).token_s[0, 64]


def test_the_head_costs_by_sequence_on_the_last_stage_alone(
    model: Model, predictor: Predictor
) -> None:
    sequence_s = tables_of(model(pp=2), predictor).sequence_s
    assert (sequence_s[0] == 0).all()
    assert sequence_s[1, 8] == pytest.approx(3e-6 + 1.5 * (2 * (256 * 1024 + 8 * 1280)) / 1e12)


def test_decodes_cost_what_they_cost_at_their_mean_context(
    model: Model, predictor: Predictor
) -> None:
    """10 us a launch and 1.5 ns a cached token in each layer, whatever the batch."""
    tables = tables_of(model(), predictor)
    point = 2048 // tables.kv_step_tokens
    for decodes in (1, 3, 8):
        expected = LAYERS * (10e-6 + 1.5e-9 * 2048)
        assert tables.decode_s[0, decodes, point] == pytest.approx(expected, rel=1e-3)


def test_beyond_the_longest_measured_context_a_batch_keeps_its_slope(
    model: Model, predictor: Predictor
) -> None:
    """Eight decodes were measured up to 255 tokens each; here each has 512."""
    tables = tables_of(model(), predictor)
    found = tables.decode_s[0, 8, 4096 // tables.kv_step_tokens]
    assert found == pytest.approx(LAYERS * (10e-6 + 1.5e-9 * 4096), rel=1e-3)


def test_a_whole_prompt_costs_its_measured_time(model: Model, predictor: Predictor) -> None:
    tables = tables_of(model(), predictor)
    point = 64 // tables.chunk_step_tokens
    assert tables.prefill_base_s[0] == pytest.approx(LAYERS * 12e-6, rel=1e-4)
    assert tables.prefill_s[0, 0, point] == pytest.approx(LAYERS * 200e-12 * 64**2, rel=0.02)


def test_a_chunk_after_history_costs_its_share_of_the_pairs(
    model: Model, predictor: Predictor
) -> None:
    tables = tables_of(model(), predictor)
    context = 1024 // tables.context_step_tokens
    whole = 200e-12 * ((1024 + 64) ** 2 - 1024**2)
    found = tables.prefill_s[0, context, 64 // tables.chunk_step_tokens]
    assert found == pytest.approx(LAYERS * whole, rel=0.03)


def test_tokens_below_the_largest_graph_cost_what_their_graph_costs(
    model: Model, predictor: Predictor
) -> None:
    engine = EngineProfile("graphs", 0.0, 0.0, (1, 8, 32))
    token_s = tables_of(model(), predictor, engine).token_s[0]
    assert token_s[2] == token_s[8]
    assert token_s[9] == token_s[32]
    assert token_s[33] > token_s[32]


def test_host_time_is_the_engine_profiles(model: Model, predictor: Predictor) -> None:
    engine = EngineProfile("slow host", 0.01, 0.001, ())
    tables, bare = tables_of(model(), predictor, engine), tables_of(model(), predictor)
    assert tables.host_step_s == 0.01
    assert tables.sequence_s[0, 5] - bare.sequence_s[0, 5] == pytest.approx(5 * 0.001)


def test_stages_apart_send_over_the_network_when_the_node_is_full(
    model: Model, predictor: Predictor
) -> None:
    crowded = replace(predictor, sku=replace(predictor.sku, gpus_per_node=1))
    near, far = tables_of(model(pp=2), predictor), tables_of(model(pp=2), crowded)
    assert far.send_s[0, 64] > near.send_s[0, 64]
    assert (near.send_s[1] == 0).all()


def test_two_ranks_reduce_once_a_layer(model: Model, predictor: Predictor) -> None:
    alone = tables_of(model(), predictor).token_s[0, 64]
    together = tables_of(model(tp=2), predictor).token_s[0, 64]
    reduce_s = LAYERS * (5e-6 + 64 * 256 * 2 / 50e9)
    assert together - reduce_s < alone


def test_a_reduction_takes_what_a_share_of_its_layers_gemms_does_not_hide(
    model: Model, predictor: Predictor
) -> None:
    """Two layers reduce in 11.3 us in all and multiply in some 6 us, of which a half hides 3 us."""
    program, reduce_s = model(tp=2), LAYERS * (5e-6 + 64 * 256 * 2 / 50e9)
    total_s = tables_of(program, predictor).token_s[0, 64]
    computed_s = total_s - reduce_s
    for overlap, exposed_s in ((0.5, reduce_s - 0.5 * computed_s), (10.0, 0.0)):
        tables = tables_of(program, predictor, replace(KERNELS, overlap=overlap))
        assert tables.token_s[0, 64] == pytest.approx(computed_s + exposed_s)
        assert tables.token_shares[64].sum() == pytest.approx(1)


def test_no_reduction_hides_behind_another_layers_gemms(model: Model, predictor: Predictor) -> None:
    program = model(tp=2)
    (stage,) = program.stages
    proj, _, _, reduce = stage.runs[0].calls
    apart = replace(stage, runs=(Run("multiplies", (proj,), 8), Run("reduces", (reduce,), 2)))
    program = replace(program, stages=(apart,))
    hiding = tables_of(program, predictor, replace(KERNELS, overlap=1.0))
    assert hiding.token_s[0, 64] == pytest.approx(tables_of(program, predictor).token_s[0, 64])


def test_no_cell_beats_the_datasheet(model: Model, predictor: Predictor, gpu: Sku) -> None:
    """Over all cells: FLOPs and bytes of attention and of the projection, by the operators themselves."""
    fast = replace(gpu, bandwidth_bytes_per_s=1e9, peak_flops_per_s=(("bf16", 1e10),))
    tables = tables_of(model(), replace(predictor, sku=fast))
    attention = Attention(heads=4, kv_heads=2, head_dim=64)
    for decodes in (1, 5, 8):
        for point, seconds in enumerate(tables.decode_s[0, decodes]):
            cached = point * tables.kv_step_tokens
            moved = attention.kv_bytes_per_token * cached
            assert seconds >= LAYERS * moved / 1e9 * (1 - 1e-9)
    for i, row in enumerate(tables.prefill_s[0]):
        for j, seconds in enumerate(row):
            flops = attention.flops(i * tables.context_step_tokens, j * tables.chunk_step_tokens)
            assert seconds >= LAYERS * flops / 1e10 * (1 - 1e-9)
    weights = Linear(256, 256).weight_bytes
    assert (tables.token_s[0, 1:] >= LAYERS * weights / 1e9).all()


def test_more_cached_tokens_and_more_decodes_never_cost_less(
    model: Model, predictor: Predictor
) -> None:
    decode_s = tables_of(model(), predictor).decode_s[0]
    assert (np.diff(decode_s, axis=1) >= -1e-12).all()


def test_shares_of_time_add_up(model: Model, predictor: Predictor) -> None:
    tables = tables_of(model(pp=2), predictor, ENGINE_PROFILES["vllm-0.12"])
    for shares in (tables.token_shares[1:], tables.prefill_shares[1:], tables.decode_shares[1:]):
        np.testing.assert_allclose(shares.sum(axis=-1), 1.0)


def test_time_by_source_adds_up_to_the_steps_time(model: Model, predictor: Predictor) -> None:
    tables = tables_of(model(), predictor, ENGINE_PROFILES["vllm-0.12"])
    point = 100 // tables.kv_step_tokens
    work = StepWork(
        tokens=np.array([10, 3]),
        sequences=np.array([4, 3]),
        decodes=np.array([3, 3]),
        cached_tokens=np.array([point * tables.kv_step_tokens] * 2),
        prefill_s=np.array([1e-4, 0.0]),
        prompt_tokens=np.array([7, 100]),
    )
    expected = 1e-4 + 2 * tables.host_step_s + 2 * tables.decode_s[0, 3, point]
    expected += tables.token_s[0, [10, 3]].sum() + tables.sequence_s[0, [4, 3]].sum()
    by_source = time_by_source(tables, work)
    assert set(by_source) == {source.value for source in SOURCES}
    assert sum(by_source.values()) == pytest.approx(expected)


def test_saved_tables_read_back_alike(model: Model, predictor: Predictor) -> None:
    tables = tables_of(model(), predictor)
    once = saved_tables.from_bytes(saved_tables.to_bytes(tables))
    twice = saved_tables.from_bytes(saved_tables.to_bytes(once))
    for field in fields(RuntimeTables):
        np.testing.assert_array_equal(getattr(once, field.name), getattr(twice, field.name))
        np.testing.assert_allclose(
            getattr(once, field.name),
            getattr(tables, field.name),
            rtol=1e-3 if field.name.endswith("_spread") else 1e-6,
            atol=1e-6 if field.name.endswith("_spread") else 0.0,
        )


def test_the_small_models_head_is_asked_by_sequence(model: Model) -> None:
    (stage,) = model().stages
    assert stage.runs[-1].calls[0].rows is Rows.LAST_TOKENS


def test_a_launch_with_a_share_of_the_rows_costs_that_share(
    model: Model, predictor: Predictor
) -> None:
    whole = model()
    (stage,) = whole.stages
    layers = stage.runs[0]
    halved = replace(layers, calls=tuple(replace(c, row_factor=0.5) for c in layers.calls))
    half = replace(whole, stages=(replace(stage, runs=(halved, stage.runs[1])),))
    full_s = tables_of(whole, predictor).token_s[0]
    half_s = tables_of(half, predictor).token_s[0]
    assert half_s[64] == pytest.approx(full_s[32])


def test_chunks_measured_after_history_are_interpolated_not_composed(
    model: Model, gpu: Sku
) -> None:
    """30 us a launch, 10 ns for each token of the chunk and 1 ns for each of its history."""
    context, chunk = (g.ravel() for g in np.meshgrid([0, 1024, 4096], [16, 64]))
    shape = {"heads": 4, "kv_heads": 2, "head_dim": 64, "window": 0}
    batch = MeasurementBatch(
        *("attention_prefill", "bf16", "bf16", "gpu", Origin("llmservingsim")),
        dims={
            **{name: np.full(6, size) for name, size in shape.items()},
            **{"batch": np.ones(6, dtype=np.int64), "context": context, "chunk": chunk},
        },
        times_s={"mean_s": 30e-6 + 1e-9 * context + 10e-9 * chunk},
    )
    with Store.open(":memory:") as store:
        store.add_batches([batch])
        tables = tables_of(model(), predictor_from(store, gpu, [model()], ["llmservingsim"]))
    found = tables.prefill_s[0, 2048 // tables.context_step_tokens, 32 // tables.chunk_step_tokens]
    whole = found + tables.prefill_base_s[0]
    assert whole == pytest.approx(LAYERS * (30e-6 + 1e-9 * 2048 + 10e-9 * 32), rel=1e-3)


def test_a_cells_spread_adds_kernels_as_independent_and_their_launches_as_one(
    model: Model, predictor: Predictor
) -> None:
    """The step's projection is imported, its cache write the datasheet's: 3 % and 50 % at nine of ten."""
    apart = replace(predictor, attention_writes_kv=False)
    program = model()
    tables = tables_of(program, apart)
    whole = tables.token_s[0, 64]
    projection = tables_of(program, predictor).token_s[0, 64]
    off = np.hypot(0.03 * projection, 0.5 * (whole - projection)) / 1.6449
    assert tables.token_spread[64] == pytest.approx(off / whole, rel=1e-6)
    assert tables.token_spread.shape == (65,)
    assert tables.decode_spread.shape == tables.decode_source.shape == tables.decode_s.shape[1:]


def test_a_cell_says_where_most_of_its_time_comes_from(model: Model, predictor: Predictor) -> None:
    """Eight decodes were measured up to 255 tokens each, one up to 4095: beyond, their slope goes on."""
    tables = tables_of(model(), predictor)
    assert SOURCES[tables.decode_source[8, -1]] is Source.EXTRAPOLATED
    point = 128 // tables.kv_step_tokens
    assert SOURCES[tables.decode_source[1, point]] is Source.INTERPOLATED
    assert tables.decode_spread[8, -1] >= tables.decode_spread[1, point] > 0
