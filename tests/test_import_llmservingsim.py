"""LLMServingSim's tables become points: chunks, decodes, both together, unequal lengths, layers by tokens."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_tables import SMALL, change_cell, drop_column, llmservingsim_tables

from kvsim.calibration.import_llmservingsim import import_llmservingsim
from kvsim.calibration.imported import STATEMENT, Imported
from kvsim.calibration.peak_gate import bytes_read
from kvsim.calibration.points import Point
from kvsim.errors import InputError
from kvsim.zoo import find_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "profiling" / "llmservingsim"
needs_tables = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared with the published tables is not there"
)


def imported(folder: Path, **changed: Any) -> Imported:  # Any: keywords of the importer
    return import_llmservingsim(folder, SMALL, **changed)


def named(result: Imported, name: str) -> Point:
    return next(point for point in result.points if point.id == name)


def test_lengths_are_what_was_cached_and_the_step_comes_on_top(tmp_path: Path) -> None:
    result = imported(llmservingsim_tables(tmp_path))

    decode, prefill = named(result, "attn_decode-0+0-4x64"), named(result, "attn_prefill-64+64-0x0")
    assert (decode.op, decode.q, decode.kv) == ("attn_decode", (1,) * 4, (65,) * 4)
    assert (prefill.op, prefill.q, prefill.kv) == ("attn_prefill", (64,), (128,))
    assert decode.seconds == pytest.approx((9 + 4 * 64 / 1000) * 1e-6)


def test_a_mixed_batch_is_one_point_with_the_chunk_first(tmp_path: Path) -> None:
    point = named(imported(llmservingsim_tables(tmp_path)), "attn_mixed-16+0-4x64")

    assert (point.op, point.q, point.kv) == ("attn_mixed", (16, 1, 1, 1, 1), (16, 65, 65, 65, 65))
    assert (point.heads, point.page, point.mode) == ((8, 2, 32), 16, "eager")


def test_unequal_batches_keep_each_length(tmp_path: Path) -> None:
    result = imported(llmservingsim_tables(tmp_path))

    assert named(result, "attn_decode-skew-0+0-1x64-3x16").kv == (65, 17, 17, 17)
    assert named(result, "attn_mixed-skew-32+8-1x64-3x16").kv == (40, 65, 17, 17, 17)
    assert {point.set for point in result.points if "skew" in point.id} == {"llmservingsim-skew"}


def test_sums_of_forwards_are_told_by_the_equal_batches_and_divided(tmp_path: Path) -> None:
    skew = llmservingsim_tables(tmp_path) / "skew.csv"
    change_cell(skew, 1, "t_mean_us", 3 * 9.112)
    result = imported(tmp_path)

    assert named(result, "attn_decode-skew-0+0-1x64-3x16").seconds == pytest.approx(11e-6 / 3, rel=1e-4)
    assert result.warnings[0].startswith("skew.csv holds sums of 3 forwards")
    change_cell(skew, 1, "t_mean_us", 2.5 * 9.112)
    with pytest.raises(
        InputError, match=r"t_mean_us is 2\.50 times what attention\.csv has for the same batches"
    ):
        imported(tmp_path)
    change_cell(skew, 1, "kv_mean", 9999)
    with pytest.raises(InputError, match=r"no batch without prefill is also in attention\.csv"):
        imported(tmp_path)


def test_layers_are_named_and_shaped_as_the_model_has_them(tmp_path: Path) -> None:
    result = imported(llmservingsim_tables(tmp_path))

    down = named(result, "down-m64")
    assert (down.op, down.n, down.k, down.m) == ("gemm", 256, 512, 64)
    assert Counter(point.op for point in result.points if point.m)["gemm"] == 4 * 6
    assert {point.name for point in result.points if point.op == "elementwise"} == {
        "norm",
        "rope",
        "activation",
        "embedding",
    }
    assert (named(result, "lm_head-m4").n, named(result, "sampler-m4").op) == (1000, "sampler")


def test_the_folder_may_lie_above_and_the_card_is_known_by_its_name(tmp_path: Path) -> None:
    tables = llmservingsim_tables(tmp_path)
    above, within = imported(tmp_path), imported(tables)

    assert above.points == within.points
    assert above.device["gpu"] == "rtx4090"
    assert above.source["statement"] == STATEMENT
    assert above.source["licence"] == "MIT, © CASYS Lab KAIST"


def test_several_cards_must_be_told_apart(tmp_path: Path) -> None:
    tables = llmservingsim_tables(tmp_path)
    other = tmp_path / "RTXPRO6000" / "bf16" / "tp1"
    other.mkdir(parents=True)
    for path in tables.glob("*.csv"):
        (other / path.name).write_bytes(path.read_bytes())

    with pytest.raises(InputError, match="several tables below it, give the folder of one: RTX4090/org"):
        imported(tmp_path)
    result = imported(tmp_path, gpu="rtx-pro-6000")
    assert result.device["gpu"] == "rtx-pro-6000"
    assert result.warnings == ("no meta.yaml beside tp1: nothing says which model was timed",)
    with pytest.raises(InputError, match="no tables of tp1 and h200-sxm below it; there are RTX4090/org"):
        imported(tmp_path, gpu="h200-sxm")


def test_a_card_that_no_folder_names_must_be_named(tmp_path: Path) -> None:
    tables = llmservingsim_tables(tmp_path).rename(tmp_path / "mine")

    with pytest.raises(InputError, match=r"which card is this\? Name it with --gpu"):
        imported(tables)
    assert imported(tables, gpu="rtx4090").device["gpu"] == "rtx4090"


def test_another_models_tables_are_refused(tmp_path: Path) -> None:
    llmservingsim_tables(tmp_path, heads=16)

    with pytest.raises(InputError, match="times of a model with num_attention_heads 16, but small has 8"):
        imported(tmp_path)


def test_the_meta_file_holds_the_shape_of_one_gpu_of_the_last_degree(tmp_path: Path) -> None:
    meta = llmservingsim_tables(tmp_path).parent / "meta.yaml"
    halves = {"num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 256, "vocab_size": 500}
    meta.write_text("tp_degrees: [1, 2]\n" + "".join(f"  {key}: {value}\n" for key, value in halves.items()))

    assert imported(tmp_path).points


def test_several_gpus_lack_the_allreduce_and_the_profile_says_so(tmp_path: Path) -> None:
    tables = llmservingsim_tables(tmp_path)
    tables.rename(tables.parent / "tp2")
    result = imported(tmp_path, tensor_parallel_size=2)

    assert named(result, "down-m64").k == 256
    assert "no all-reduce" in result.warnings[0]


def test_the_skew_table_may_be_absent(tmp_path: Path) -> None:
    tables = llmservingsim_tables(tmp_path)
    (tables / "skew.csv").unlink()

    assert imported(tmp_path).warnings == ("no skew.csv: no batch of unequal lengths among the points",)


def test_times_that_no_card_reaches_are_rejected_and_not_held_out(tmp_path: Path) -> None:
    tables = llmservingsim_tables(tmp_path)
    change_cell(tables / "attention.csv", 12, "time_us", 0.001)
    point = named(imported(tmp_path), "attn_decode-0+0-8x256")

    assert point.flags == ("above-peak", "rejected")
    assert not point.held_out


@pytest.mark.parametrize(
    ("file", "column", "value", "wanted"),
    [
        ("attention.csv", "time_us", "nan", "row 2: time_us must be a finite number, got nan"),
        ("attention.csv", "n_decode", "-1", "row 2: n_decode must be a whole number ≥ 0, got -1"),
        ("attention.csv", "n_decode", "0", "row 2: neither a chunk of prompt nor a decode"),
        ("skew.csv", "t_skew_us", "-5", "row 2: t_skew_us must be a time > 0, got -5"),
        ("skew.csv", "nb", "9", "row 2: nb must be at most n, and n at least 1; got 9 of 4"),
        ("dense.csv", "tokens", "many", "row 2: tokens must be a finite number, got many"),
        ("dense.csv", "tokens", "0", "qkv has a row of 0 tokens; at least 1"),
        ("per_sequence.csv", "time_us", "", "row 2: time_us must be a finite number, got nan"),
    ],
)
def test_a_wrong_cell_is_one_line(tmp_path: Path, file: str, column: str, value: str, wanted: str) -> None:
    change_cell(llmservingsim_tables(tmp_path) / file, 2, column, value)

    with pytest.raises(InputError, match=re.escape(wanted)):
        imported(tmp_path)


@pytest.mark.parametrize("file", ["dense.csv", "per_sequence.csv"])
def test_a_missing_file_is_one_line(tmp_path: Path, file: str) -> None:
    (llmservingsim_tables(tmp_path) / file).unlink()

    with pytest.raises(InputError, match=f"{file}: no such file"):
        imported(tmp_path)


def test_missing_columns_layers_and_folders_are_one_line_each(tmp_path: Path) -> None:
    tables = llmservingsim_tables(tmp_path)
    dense, ends = tables / "dense.csv", tables / "per_sequence.csv"

    ends.write_text(ends.read_text().replace("lm_head", "head"))
    with pytest.raises(InputError, match="no rows of layer 'lm_head'; there are head, sampler"):
        imported(tmp_path)
    dense.write_text(dense.read_text().replace("o_proj", "out"))
    with pytest.raises(InputError, match="no rows of layer 'o_proj'; there are act_fn, down_proj"):
        imported(tmp_path)
    drop_column(tables / "attention.csv", "kv_decode")
    with pytest.raises(InputError, match="column 'kv_decode' is missing; it has prefill_chunk"):
        imported(tmp_path)
    with pytest.raises(InputError, match="no tables of tp4 below it; there are none at all"):
        imported(tmp_path, tensor_parallel_size=4)
    with pytest.raises(InputError, match="no such folder"):
        imported(tmp_path / "absent")


@pytest.mark.parametrize(("gpu", "batches", "peak"), [("rtx4090", 8643, 1.19), ("rtx-pro-6000", 19364, 1.53)])
@pytest.mark.shared
@needs_tables
def test_the_published_check_figures_come_out(gpu: str, batches: int, peak: float) -> None:
    result = import_llmservingsim(SHARED, find_model("llama-3.1-8b"), gpu=gpu)

    decodes = [point for point in result.points if point.op == "attn_decode" and point.set == "llmservingsim"]
    assert sum(bool(point.q) and point.set == "llmservingsim" for point in result.points) == batches
    assert max(bytes_read(point) / point.seconds for point in decodes) == pytest.approx(peak * 1e12, rel=0.02)
    assert [warning[:34] for warning in result.warnings] == ["skew.csv holds sums of 3 forwards,"]


@pytest.mark.shared
@needs_tables
def test_the_real_tables_are_refused_for_another_model() -> None:
    with pytest.raises(
        InputError, match="times of a model with intermediate_size 14336, but qwen3-8b has 12288"
    ):
        import_llmservingsim(SHARED, find_model("qwen3-8b"), gpu="rtx4090")
    with pytest.raises(InputError, match=r"num_attention_heads 32, but llama-3\.1-70b has 64"):
        import_llmservingsim(SHARED, find_model("llama-3.1-70b"), gpu="rtx4090")
