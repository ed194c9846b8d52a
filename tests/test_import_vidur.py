"""Vidur's tables become points: operators in milliseconds, attention by cached tokens, host time between steps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_tables import SMALL, change_cell, drop_column, vidur_tables

from kvsim.calibration.import_vidur import import_vidur
from kvsim.calibration.imported import STATEMENT, Imported
from kvsim.calibration.peak_gate import bytes_read
from kvsim.calibration.points import Point
from kvsim.errors import InputError
from kvsim.zoo import find_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "profiling" / "vidur"
needs_tables = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared with the published tables is not there"
)


def imported(folder: Path, **changed: Any) -> Imported:  # Any: keywords of the importer
    return import_vidur(folder, SMALL, **changed)


def named(result: Imported, name: str) -> Point:
    return next(point for point in result.points if point.id == name)


def test_cached_tokens_do_not_count_the_steps_own(tmp_path: Path) -> None:
    result = imported(vidur_tables(tmp_path))

    decode, prefill = named(result, "attn_decode-4x1-kv65"), named(result, "attn_prefill-1x128-kv192")
    assert (decode.op, decode.q, decode.kv) == ("attn_decode", (1,) * 4, (65,) * 4)
    assert (prefill.op, prefill.q, prefill.kv) == ("attn_prefill", (128,), (192,))
    assert decode.seconds == pytest.approx(0.015256e-3)
    assert decode.heads == (8, 2, 32)


def test_operators_get_our_names_and_the_models_shapes(tmp_path: Path) -> None:
    result = imported(vidur_tables(tmp_path))

    gate_up = named(result, "gate_up-m64")
    assert (gate_up.op, gate_up.n, gate_up.k) == ("gemm", 1024, 256)
    assert len(gate_up.ns) == 3
    assert {point.name for point in result.points if point.op == "elementwise"} == {
        "norm",
        "rope",
        "activation",
    }


def test_the_lm_head_stands_in_proportion_to_the_up_projection(tmp_path: Path) -> None:
    result = imported(vidur_tables(tmp_path))

    head, up = named(result, "lm_head-m8"), named(result, "gate_up-m8")
    assert head.seconds == pytest.approx(up.seconds * 1000 / 1024, rel=1e-4)
    assert "interpolated" in head.flags
    assert result.warnings[0] == "the LM head was not timed: in proportion to the up projection"


def test_times_of_a_whole_microsecond_are_flagged_where_that_is_coarse(tmp_path: Path) -> None:
    tables = vidur_tables(tmp_path)
    for statistic in ("min", "median", "max"):
        for row, ms in ((1, 0.015), (2, 0.5)):
            change_cell(tables / "attention.csv", row, f"time_stats.attn_decode.{statistic}", ms)
    result = imported(tables)

    assert "rounded" in named(result, "attn_decode-1x1-kv33").flags
    assert "rounded" not in named(result, "attn_decode-1x1-kv65").flags
    assert "rounded" not in named(result, "attn_decode-1x1-kv129").flags


def test_host_times_come_from_the_table_above_and_name_their_model(tmp_path: Path) -> None:
    result = imported(vidur_tables(tmp_path))

    assert result.host["step"] == pytest.approx(0.4e-3)
    assert result.host["request"] == pytest.approx(0.025e-3)
    assert result.host["source"] == "Vidur's cpu_overheads.csv: other on 1 GPUs"
    assert result.warnings[1] == "host times were measured with other on 1 GPUs"


def test_without_a_host_table_the_profile_says_so(tmp_path: Path) -> None:
    tables = vidur_tables(tmp_path)
    (tmp_path / "a100" / "cpu_overheads.csv").unlink()

    assert imported(tables).warnings[1] == "no cpu_overheads table: host time is not in the profile"


def test_the_source_says_that_nobody_here_measured_it(tmp_path: Path) -> None:
    result = imported(vidur_tables(tmp_path))

    assert result.device["gpu"] == "a100-80-sxm"
    assert result.source["statement"] == STATEMENT
    assert result.source["licence"] == "MIT, © Microsoft Corporation"
    assert result.source["tables"] == ["mlp.csv", "attention.csv", "cpu_overheads.csv"]


def test_a_card_that_no_folder_names_must_be_named(tmp_path: Path) -> None:
    tables = vidur_tables(tmp_path).rename(tmp_path / "mine")

    with pytest.raises(InputError, match=r"which card is this\? Name it with --gpu"):
        imported(tables)
    assert imported(tables, gpu="h100-sxm").device["gpu"] == "h100-sxm"


def test_rows_of_another_shape_or_degree_are_not_taken(tmp_path: Path) -> None:
    tables = vidur_tables(tmp_path)

    with pytest.raises(
        InputError, match=r"no rows with n_head 16, .* there are n_head 8, n_kv_head 2, n_embd 256"
    ):
        import_vidur(tables, replace(SMALL, heads=16))
    with pytest.raises(InputError, match="and num_tensor_parallel_workers 2; there are n_head 8"):
        imported(tables, tensor_parallel_size=2)


def test_several_gpus_lack_the_allreduce_and_the_profile_says_so(tmp_path: Path) -> None:
    tables = vidur_tables(tmp_path)
    for file in ("mlp.csv", "attention.csv"):
        lines = (tables / file).read_text().splitlines()
        place = lines[0].split(",").index("num_tensor_parallel_workers")
        cells = [line.split(",") for line in lines[1:]]
        changed = [",".join(["2" if i == place else cell for i, cell in enumerate(row)]) for row in cells]
        (tables / file).write_text("\n".join([lines[0], *changed]))
    result = imported(tables, tensor_parallel_size=2)

    assert named(result, "attn_decode-4x1-kv65").heads == (4, 1, 32)
    assert "no all-reduce" in result.warnings[1]


@pytest.mark.parametrize(
    ("file", "column", "value", "wanted"),
    [
        (
            "mlp.csv",
            "time_stats.mlp_act.median",
            "nan",
            "row 2: time_stats.mlp_act.median must be a finite number",
        ),
        ("mlp.csv", "num_tokens", "1.5", "row 2: num_tokens must be a whole number ≥ 0, got 1.5"),
        (
            "attention.csv",
            "time_stats.attn_decode.min",
            "-1",
            "row 2: time_stats.attn_decode.min must be a time > 0",
        ),
        ("attention.csv", "kv_cache_size", "-32", "row 2: kv_cache_size must be a whole number ≥ 0, got -32"),
        (
            "../../cpu_overheads.csv",
            "schedule_mean",
            "x",
            "row 2: schedule_mean must be a finite number, got x",
        ),
    ],
)
def test_a_wrong_cell_is_one_line(tmp_path: Path, file: str, column: str, value: str, wanted: str) -> None:
    tables = vidur_tables(tmp_path)
    change_cell(tables / file, 2, column, value)

    with pytest.raises(InputError, match=re.escape(wanted)):
        imported(tables)


def test_missing_columns_files_and_folders_are_one_line_each(tmp_path: Path) -> None:
    tables = vidur_tables(tmp_path)

    drop_column(tables / "attention.csv", "kv_cache_size")
    with pytest.raises(InputError, match="column 'kv_cache_size' is missing"):
        imported(tables)
    drop_column(tables / "mlp.csv", "num_tensor_parallel_workers")
    with pytest.raises(InputError, match="column 'num_tensor_parallel_workers' is missing"):
        imported(tables)
    (tables / "mlp.csv").unlink()
    with pytest.raises(InputError, match=r"mlp\.csv: no such file"):
        imported(tables)
    (tables / "attention.csv").unlink()
    with pytest.raises(InputError, match=r"needs one attention\*\.csv, there are none"):
        imported(tables)
    with pytest.raises(InputError, match="no such folder"):
        imported(tmp_path / "absent")


@pytest.mark.shared
@needs_tables
def test_the_real_tables_keep_their_published_bandwidth() -> None:
    folder = SHARED / "a100" / "meta-llama" / "Llama-2-70b-hf"
    result = import_vidur(folder, find_model("llama-2-70b"), tensor_parallel_size=2)

    large = [point for point in result.points if point.op == "attn_decode" and bytes_read(point) > 500e6]
    rates = [bytes_read(point) / point.seconds / 1e12 for point in large]
    assert 1.2 < min(rates) < max(rates) < 1.9
    assert not any("rejected" in point.flags for point in result.points)
