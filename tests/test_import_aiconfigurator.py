"""AIConfigurator's tables become points of the model's own shapes, and wrong tables one clear line."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_tables import (
    SMALL,
    aiconfigurator_tables,
    attention_row,
    change_cell,
    drop_column,
    gemm_row,
    write_csv,
)

from kvsim.calibration.import_aiconfigurator import import_aiconfigurator
from kvsim.calibration.imported import STATEMENT, Imported
from kvsim.calibration.peak_gate import bytes_read
from kvsim.calibration.points import Point
from kvsim.calibration.table_file import read_table
from kvsim.errors import InputError
from kvsim.zoo import find_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "profiling" / "aiconfigurator"
needs_tables = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared with the published tables is not there"
)


def imported(folder: Path, **changed: Any) -> Imported:  # Any: keywords of the importer
    return import_aiconfigurator(folder, SMALL, gpu="h200-sxm", **changed)


def named(result: Imported, name: str) -> Point:
    return next(point for point in result.points if point.id == name)


def test_a_decode_row_has_one_query_on_the_cached_tokens_and_its_own(tmp_path: Path) -> None:
    point = named(imported(aiconfigurator_tables(tmp_path)), "decode-4x1-kv64")

    assert (point.op, point.q, point.kv, point.heads) == ("attn_decode", (1,) * 4, (64,) * 4, (8, 2, 32))
    assert point.seconds == pytest.approx(0.01e-3 + 4 * 64 * 1e-9)


def test_a_prefill_row_has_all_its_tokens_new(tmp_path: Path) -> None:
    result = imported(aiconfigurator_tables(tmp_path))

    assert named(result, "prefill-2x16-kv16").q == (16, 16)
    assert named(result, "prefill-2x1-kv1").op == "attn_decode"


def test_a_shape_that_was_timed_is_taken_as_it_is(tmp_path: Path) -> None:
    result = imported(aiconfigurator_tables(tmp_path))

    point = named(result, "gate_up-m64")
    assert (point.n, point.k, point.flags) == (1024, 256, ("l2-warm",))
    assert point.seconds == pytest.approx(5.64e-6)
    assert named(result, "lm_head-m1").op == "lm_head"
    assert result.warnings == ()


def test_a_shape_between_two_is_interpolated_flagged_and_its_error_stated(tmp_path: Path) -> None:
    shapes = [(256, 256), (512, 256), (768, 256), (2048, 256), (256, 512)]
    rows = [gemm_row(m, n, k, n * 1e-5) for m in (1, 2, 4) for n, k in shapes]
    result = imported(aiconfigurator_tables(tmp_path, gemm=rows))

    assert named(result, "qkv-m1").seconds == pytest.approx(384e-8)
    assert "interpolated" in named(result, "qkv-m1").flags
    assert "gate_up (1024 × 256) was not timed: n between 768 and 2048" in result.warnings[1]
    assert result.warnings[1].endswith("misses the nearest timed shape by 0.0%")


def test_a_shape_beyond_the_largest_grows_in_proportion(tmp_path: Path) -> None:
    rows = [
        gemm_row(m, n, k, 0.002) for m in (1, 2) for n, k in [(256, 256), (384, 256), (512, 256), (256, 512)]
    ]
    result = imported(aiconfigurator_tables(tmp_path, gemm=rows))

    assert named(result, "lm_head-m1").seconds == pytest.approx(0.002e-3 * 1000 / 512)


def test_a_shape_with_neither_side_on_the_grid_is_interpolated_twice(tmp_path: Path) -> None:
    rows = [gemm_row(m, n, k, n * k * 1e-7) for m in (1, 2) for n in (128, 2048) for k in (128, 1024)]
    result = imported(aiconfigurator_tables(tmp_path, gemm=rows))

    assert named(result, "down-m1").seconds == pytest.approx(256 * 512 * 1e-10)


def test_repeated_rows_become_repeats_of_one_point(tmp_path: Path) -> None:
    rows = [attention_row(1, 1, 15, ms) for ms in (0.02, 0.01, 0.04)]
    result = imported(aiconfigurator_tables(tmp_path, decode=rows))

    assert named(result, "decode-1x1-kv16").ns == (10_000, 20_000, 40_000)


def test_of_two_kernels_for_a_shape_the_usual_one_is_taken(tmp_path: Path) -> None:
    rows = [attention_row(b, 1, 15, 0.02) for b in (1, 2, 4)]
    rows.append(attention_row(1, 1, 15, 0.01, kernel_source="rare"))
    result = imported(aiconfigurator_tables(tmp_path, decode=rows))

    assert named(result, "decode-1x1-kv16").backend == "flash"


def test_what_fits_the_cache_is_flagged_and_beyond_the_peak_rejected(tmp_path: Path) -> None:
    rows = [attention_row(1, 1, 2**power - 1, ms) for power, ms in ((10, 0.01), (21, 0.15), (22, 0.01))]
    result = imported(aiconfigurator_tables(tmp_path, decode=rows))

    assert named(result, "decode-1x1-kv1024").flags == ("l2-warm",)
    assert not named(result, "decode-1x1-kv1024").cold
    assert named(result, "decode-1x1-kv2097152").flags == ()
    assert named(result, "decode-1x1-kv4194304").flags == ("above-peak", "rejected")


def test_a_warm_call_faster_than_any_cold_one_is_rejected(tmp_path: Path) -> None:
    rows = [attention_row(1, 1, 2**power - 1, ms) for power, ms in ((17, 0.008), (22, 0.5))]
    result = imported(aiconfigurator_tables(tmp_path, decode=rows))

    assert named(result, "decode-1x1-kv131072").flags == ("l2-warm", "above-cold", "rejected")


def test_held_out_points_are_a_quarter_and_never_the_extremes(tmp_path: Path) -> None:
    decode = [attention_row(b, 1, kv - 1, 0.05) for b in (1, 2, 4, 8, 16) for kv in (16, 32, 64, 128, 256)]
    result = imported(aiconfigurator_tables(tmp_path, decode=decode))

    group = [point for point in result.points if point.id.startswith("decode-")]
    held = {point.id for point in group if point.held_out}
    assert len(held) == 6
    assert not held & {"decode-1x1-kv16", "decode-16x1-kv256"}


def test_the_seed_draws_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = aiconfigurator_tables(tmp_path)
    first, again, other = imported(folder), imported(folder), imported(folder, seed=1)

    assert first.points == again.points
    assert first.points != other.points
    assert [replace(p, held_out=False) for p in first.points] == [
        replace(p, held_out=False) for p in other.points
    ]


def test_the_source_says_that_nobody_here_measured_it(tmp_path: Path) -> None:
    source = imported(aiconfigurator_tables(tmp_path)).source

    assert source["statement"] == STATEMENT == "imported, not measured by this project"
    assert source["licence"] == "Apache-2.0, © NVIDIA Corporation & Affiliates"


def test_elementwise_kernels_are_assumed_from_bandwidth_and_latency(tmp_path: Path) -> None:
    folder = aiconfigurator_tables(tmp_path)
    text = "gpu:\n  mem_bw_empirical_scaling_factor: 0.5 # so\n  mem_empirical_constant_latency: 0.000002\n"
    (folder / "system.yaml").write_text(text)
    point = named(imported(folder), "activation-m1024")

    assert point.flags == ("assumed",)
    assert point.seconds == pytest.approx(2e-6 + 2 * 3 * 512 * 1024 / (0.5 * 4800e9), rel=1e-5)


def test_two_gpus_take_half_the_heads_and_the_allreduce_in_bytes(tmp_path: Path) -> None:
    half = {"num_heads": 4, "num_key_value_heads": 1}
    folder = aiconfigurator_tables(
        tmp_path,
        decode=[attention_row(b, 1, 15, 0.01, **half) for b in (1, 2)],
        prefill=[attention_row(b, 16, 0, 0.01, **half) for b in (1, 2)],
        gemm=[gemm_row(m, n, k, 0.01) for m in (1, 2) for n in (128, 1024) for k in (128, 256)],
    )
    row = {"num_gpus": 2, "message_size": 128, "latency_ms": 0.02, "backend": "vllm_eager"}
    write_csv(
        folder / "vllm-0.1.0_custom_allreduce_perf.csv",
        [row, row | {"backend": "vllm_graph", "latency_ms": 0.005}],
    )
    result = imported(folder, tensor_parallel_size=2)

    assert named(result, "decode-1x1-kv16").heads == (4, 1, 32)
    reduce = [(p.message_bytes, p.mode, p.gpus) for p in result.points if p.op == "allreduce"]
    assert reduce == [(256, "eager", 2), (256, "graph", 2)]


def test_windows_of_the_model_are_read_from_rows_of_that_window(tmp_path: Path) -> None:
    decode = [attention_row(1, 1, kv, 0.01, window_size=w) for kv in (15, 255) for w in (0, 64)]
    prefill = [attention_row(1, 128, 0, 0.01, window_size=w) for w in (0, 64)]
    model = replace(SMALL, windows=(64, None, 64, None))
    result = import_aiconfigurator(
        aiconfigurator_tables(tmp_path, decode=decode, prefill=prefill), model, gpu="h200-sxm"
    )

    assert named(result, "decode-1x1-kv256-w64").window == 64
    assert named(result, "decode-1x1-kv256").window is None
    assert bytes_read(named(result, "decode-1x1-kv256-w64")) == 64 * 2 * 2 * 32 * 2


def test_a_window_that_no_table_has_is_refused_with_those_there_are(tmp_path: Path) -> None:
    model = replace(SMALL, windows=(64,) * 4)

    with pytest.raises(InputError, match=r"no rows for a window of 64 tokens; there are 0 \(0: none\)"):
        import_aiconfigurator(aiconfigurator_tables(tmp_path), model, gpu="h200-sxm")


def test_tables_without_a_window_column_are_of_full_attention(tmp_path: Path) -> None:
    folder = aiconfigurator_tables(tmp_path)
    drop_column(folder / "vllm-0.1.0_generation_attention_perf.csv", "window_size")

    assert named(imported(folder), "decode-4x1-kv64").window is None


@pytest.mark.parametrize("kind", ["csv.gz", "parquet", "upstream"])
def test_other_files_and_the_upstream_layout_give_the_same_points(tmp_path: Path, kind: str) -> None:
    wanted = imported(aiconfigurator_tables(tmp_path / "flat")).points
    folder = tmp_path / "other" / "data" / "h200_sxm"
    for path in (tmp_path / "flat").iterdir():
        stem = path.name.removeprefix("vllm-0.1.0_").removesuffix(".csv")
        into = folder / "any" / "vllm" / "0.1.0" if kind == "upstream" else folder
        into.mkdir(parents=True, exist_ok=True)
        if kind == "csv.gz":
            (into / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        elif kind == "parquet":
            pd.read_csv(path).to_parquet(into / f"vllm-0.1.0_{stem}.parquet")
        else:
            pd.read_csv(path).rename(columns={"latency_ms": "latency"}).to_parquet(into / f"{stem}.parquet")

    assert imported(tmp_path / "other").points == wanted


def test_the_newest_version_of_the_backend_is_taken(tmp_path: Path) -> None:
    for prefix, ms in (("vllm-0.9.0_", 0.03), ("vllm-0.10.0_", 0.04), ("sglang-1.0_", 0.05)):
        aiconfigurator_tables(tmp_path, decode=[attention_row(1, 1, 15, ms)], prefix=prefix)

    assert named(imported(tmp_path), "decode-1x1-kv16").seconds == pytest.approx(0.04e-3)
    assert named(imported(tmp_path, backend="sglang"), "decode-1x1-kv16").seconds == pytest.approx(0.05e-3)
    with pytest.raises(InputError, match="no table gemm_perf of trtllm; there are those of sglang, vllm"):
        imported(tmp_path, backend="trtllm")


def test_the_card_is_known_by_its_folder_or_must_be_named(tmp_path: Path) -> None:
    folder = aiconfigurator_tables(tmp_path / "b200_sxm")

    assert import_aiconfigurator(folder, SMALL).device["gpu"] == "b200"
    with pytest.raises(InputError, match=r"which card is this\? Name it with --gpu"):
        import_aiconfigurator(tmp_path, SMALL)
    with pytest.raises(InputError, match="unknown GPU 'h20'"):
        import_aiconfigurator(tmp_path, SMALL, gpu="h20")


def test_heads_that_no_table_has_are_refused_with_the_nearest(tmp_path: Path) -> None:
    model = replace(SMALL, heads=10, kv_heads=5)

    with pytest.raises(InputError, match="no rows for 10 query and 5 KV heads of 32; nearest: 8/2 of 32"):
        import_aiconfigurator(aiconfigurator_tables(tmp_path), model, gpu="h200-sxm")


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3"])
def test_models_without_plain_matrices_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        InputError, match="kernels are timed and imported of dense models with plain heads only"
    ):
        import_aiconfigurator(aiconfigurator_tables(tmp_path), find_model(name), gpu="h200-sxm")


@pytest.mark.parametrize(
    ("column", "value", "wanted"),
    [
        ("latency_ms", "nan", "row 2: latency_ms must be a finite number, got nan"),
        ("latency_ms", "inf", "row 2: latency_ms must be a finite number, got inf"),
        ("latency_ms", "soon", "row 2: latency_ms must be a finite number, got soon"),
        ("latency_ms", "-0.1", "row 2: latency_ms must be a time > 0, got -0.1"),
        ("latency_ms", "0", "row 2: latency_ms must be a time > 0, got 0"),
        ("batch_size", "-4", "row 2: batch_size must be a whole number ≥ 1, got -4"),
        ("step", "1.5", "row 2: step must be a whole number ≥ 0, got 1.5"),
    ],
)
def test_a_wrong_cell_is_one_line(tmp_path: Path, column: str, value: str, wanted: str) -> None:
    folder = aiconfigurator_tables(tmp_path)
    change_cell(folder / "vllm-0.1.0_generation_attention_perf.csv", 2, column, value)

    with pytest.raises(InputError, match=re.escape(wanted)):
        imported(folder)


def test_dtypes_that_no_table_has_are_one_line_each(tmp_path: Path) -> None:
    folder = aiconfigurator_tables(tmp_path)

    with pytest.raises(InputError, match="no bfloat16 attention over a KV cache of fp8"):
        imported(folder, kv_cache_dtype="fp8")
    with pytest.raises(InputError, match="have dtypes fp16, bf16, fp8, not 'int4'"):
        imported(folder, kv_cache_dtype="int4")
    with pytest.raises(InputError, match="no GEMMs of fp8 weights; there are bfloat16"):
        import_aiconfigurator(folder, replace(SMALL, weight_dtype="fp8"), gpu="h200-sxm")


def test_a_degree_of_parallelism_without_allreduce_is_refused(tmp_path: Path) -> None:
    half = {"num_heads": 4, "num_key_value_heads": 1}
    decode, prefill = [attention_row(1, 1, 15, 0.01, **half)], [attention_row(1, 16, 0, 0.01, **half)]
    folder = aiconfigurator_tables(tmp_path, decode=decode, prefill=prefill)

    with pytest.raises(InputError, match="no table custom_allreduce_perf"):
        imported(folder, tensor_parallel_size=2)
    row = {"num_gpus": 4, "message_size": 128, "latency_ms": 0.02, "backend": "vllm_eager"}
    write_csv(folder / "vllm-0.1.0_custom_allreduce_perf.csv", [row])
    with pytest.raises(InputError, match="no all-reduce of 2 GPUs; there are 4"):
        imported(folder, tensor_parallel_size=2)
    with pytest.raises(
        InputError, match="tensor_parallel_size must divide the 8 query heads of small, got 3"
    ):
        imported(folder, tensor_parallel_size=3)


def test_missing_columns_rows_and_files_are_one_line_each(tmp_path: Path) -> None:
    folder = aiconfigurator_tables(tmp_path)
    decode = folder / "vllm-0.1.0_generation_attention_perf.csv"

    drop_column(decode, "step")
    with pytest.raises(InputError, match="column 'step' is missing; it has kernel_source, batch_size"):
        imported(folder)
    decode.write_text(",".join(attention_row(1, 1, 1, 1)))
    with pytest.raises(InputError, match="the table has no rows"):
        imported(folder)
    decode.write_bytes(b"")
    with pytest.raises(InputError, match="not a table: No columns to parse from file"):
        imported(folder)
    decode.unlink()
    with pytest.raises(
        InputError, match=r"no table generation_attention_perf \(\.csv, \.csv\.gz, \.parquet\) in it"
    ):
        imported(folder)
    with pytest.raises(InputError, match="no such folder"):
        imported(tmp_path / "absent")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz"])
def test_a_broken_file_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nonsense")

    with pytest.raises(InputError, match="not a table: "):
        read_table(tmp_path / name, counts=["m"])


@pytest.mark.parametrize(
    ("gpu", "milliseconds", "rate"),
    [
        ("h200-sxm", 0.271, 3.96),
        ("h100-sxm", 0.354, 3.04),
        ("a100-80-sxm", 0.682, 1.58),
        ("l40s", 1.497, 0.72),
        ("b200", 0.159, 6.77),
    ],
)
@pytest.mark.shared
@needs_tables
def test_the_published_check_figures_come_out(gpu: str, milliseconds: float, rate: float) -> None:
    result = import_aiconfigurator(SHARED, find_model("llama-3.1-8b"), gpu=gpu)
    point = named(result, "decode-64x1-kv4096")

    assert point.seconds * 1e3 == pytest.approx(milliseconds, abs=0.0006)
    assert bytes_read(point) / point.seconds / 1e12 == pytest.approx(rate, abs=0.01)
    assert point.flags == ()


@pytest.mark.parametrize(
    ("model", "size", "heads"),
    [
        ("llama-3.1-8b", 2, (16, 4, 128)),
        ("llama-3.1-70b", 4, (16, 2, 128)),
        ("llama-3.1-70b", 8, (8, 1, 128)),
        ("qwen3-0.6b", 1, (16, 8, 128)),
    ],
)
@pytest.mark.shared
@needs_tables
def test_other_models_find_their_shapes(model: str, size: int, heads: tuple[int, int, int]) -> None:
    result = import_aiconfigurator(SHARED, find_model(model), tensor_parallel_size=size, gpu="h100-sxm")

    assert {point.heads for point in result.points if point.q} == {heads}
    assert any(point.op == "allreduce" for point in result.points) == (size > 1)
    assert sum("rejected" in point.flags for point in result.points) < 0.2 * len(result.points)


@pytest.mark.shared
@needs_tables
def test_interpolated_matrices_agree_with_anothers_timings_as_well_as_timed_ones() -> None:
    result = import_aiconfigurator(SHARED, find_model("llama-3.1-8b"), gpu="a100-80-sxm")
    path = SHARED.parent / "vidur" / "a100" / "meta-llama" / "Meta-Llama-3-8B" / "mlp.csv"
    frame = pd.read_csv(path)
    others = frame[frame["num_tensor_parallel_workers"] == 1].groupby("num_tokens").mean(numeric_only=True)

    misses = {
        name: [
            abs(point.seconds * 1e3 / others[f"time_stats.{theirs}.median"][point.m] - 1)
            for point in result.points
            if point.name == name and point.m in others.index
        ]
        for name, theirs in [("qkv", "attn_pre_proj"), ("gate_up", "mlp_up_proj"), ("down", "mlp_down_proj")]
    }
    assert {name: len(each) for name, each in misses.items()} == {"qkv": 21, "gate_up": 21, "down": 21}
    assert max(sum(misses[name]) for name in ("gate_up", "down")) < sum(misses["qkv"])
