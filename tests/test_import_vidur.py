"""Vidur's tables become points: operators in milliseconds, attention by cached tokens, host time between steps."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_tables import (
    SMALL,
    aiconfigurator_tables,
    attention_row,
    change_cell,
    drop_column,
    vidur_tables,
    write_csv,
)

from kvsim.calibration.import_vidur import import_vidur
from kvsim.calibration.imported import STATEMENT, Imported
from kvsim.calibration.importers import import_tables
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
    assert str(result.host["source"]).startswith("Vidur's cpu_overheads.csv: other on 1 GPUs; gaps between")
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
        ("mlp.csv", "num_tokens", "1.5", "row 2: num_tokens must be a whole number ≥ 1, got 1.5"),
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


def test_rows_without_any_time_of_an_operator_are_left_out_and_counted(tmp_path: Path) -> None:
    tables = vidur_tables(tmp_path)
    for statistic in ("min", "median", "max"):
        change_cell(tables / "mlp.csv", 2, f"time_stats.attn_pre_proj.{statistic}", "")
    result = imported(tables)

    assert [point.m for point in result.points if point.name == "qkv"] == [1, 8, 64, 512]
    assert len([point for point in result.points if point.name == "o"]) == 5
    assert result.warnings[-1] == "attn_pre_proj has no times in 1 of 5 rows of mlp.csv"


def test_the_kv_write_is_a_kernel_of_its_own_where_it_was_timed(tmp_path: Path) -> None:
    tables = vidur_tables(tmp_path)
    assert not any(point.op == "kv_write" for point in imported(tables).points)

    with (tables / "attention.csv").open(newline="") as stream:
        rows: list[dict[str, object]] = [dict(each) for each in csv.DictReader(stream)]
    for row in rows:
        tokens = row["prefill_chunk_size"] if row["is_prefill"] == "True" else row["batch_size"]
        for statistic in ("min", "median", "max"):
            row[f"time_stats.attn_kv_cache_save.{statistic}"] = 0.003 + int(str(tokens)) * 1e-5
    write_csv(tables / "attention.csv", rows)

    writes = {point.m: point.seconds for point in imported(tables).points if point.op == "kv_write"}
    assert list(writes) == [1, 2, 4, 8, 64, 128, 256]
    assert writes[128] == pytest.approx(0.00428e-3)


def on_two_gpus(tables: Path) -> Path:
    for file in ("mlp.csv", "attention.csv"):
        with (tables / file).open(newline="") as stream:
            rows: list[dict[str, object]] = [dict(each) for each in csv.DictReader(stream)]
        write_csv(tables / file, [row | {"num_tensor_parallel_workers": 2} for row in rows])
    return tables


def test_all_reduces_are_lent_by_other_tables_and_the_profile_says_whose(tmp_path: Path) -> None:
    lender = aiconfigurator_tables(tmp_path / "a100_sxm")
    rows = [
        {
            "backend": backend,
            "num_gpus": 2,
            "message_size": 1 << power,
            "latency": 0.004 + 1e-8 * (1 << power),
        }
        for backend in ("vllm", "vllm_eager")
        for power in range(7, 20)
    ]
    write_csv(lender / "vllm-0.1.0_custom_allreduce_perf.csv", rows)
    tables = on_two_gpus(vidur_tables(tmp_path))
    found = import_tables("vidur", tables, SMALL, tensor_parallel_size=2, allreduce=tmp_path)

    reduces = [point for point in found.points if point.op == "allreduce"]
    assert {(point.mode, point.gpus) for point in reduces} == {("graph", 2), ("eager", 2)}
    assert any(point.held_out for point in reduces)
    lent: Any = found.source["allreduce"]
    assert lent["licence"].startswith("Apache-2.0")
    assert found.source["licence"] == "MIT, © Microsoft Corporation"
    assert not any("no all-reduce" in warning for warning in found.warnings)
    assert found.warnings[-1].startswith("all-reduces are of other tables: NVIDIA AIConfigurator")


@pytest.mark.parametrize(
    ("format_name", "size", "why"), [("vidur", 1, "one GPU needs none"), ("aiconfigurator", 2, "has its own")]
)
def test_all_reduces_are_lent_only_where_they_lack(
    tmp_path: Path, format_name: str, size: int, why: str
) -> None:
    lender = aiconfigurator_tables(tmp_path / "a100_sxm")
    tables = vidur_tables(tmp_path)
    write_csv(
        lender / "vllm-0.1.0_custom_allreduce_perf.csv",
        [{"backend": "vllm", "num_gpus": 2, "message_size": 128, "latency": 0.004}],
    )
    rows = [attention_row(b, q, 0, 0.02, num_heads=4, num_key_value_heads=1) for b in (1, 2) for q in (1, 16)]
    for stem in ("generation", "context"):
        write_csv(lender / f"vllm-0.1.0_{stem}_attention_perf.csv", rows)
    folder = tables if format_name == "vidur" else lender

    with pytest.raises(InputError, match=f"--allreduce lends all-reduces where tables lack them: .*{why}"):
        import_tables(
            format_name, folder, SMALL, tensor_parallel_size=size, gpu="a100-80-sxm", allreduce=tmp_path
        )


@pytest.mark.shared
@needs_tables
def test_the_real_tables_keep_their_published_bandwidth() -> None:
    folder = SHARED / "a100" / "meta-llama" / "Llama-2-70b-hf"
    result = import_vidur(folder, find_model("llama-2-70b"), tensor_parallel_size=2)

    large = [point for point in result.points if point.op == "attn_decode" and bytes_read(point) > 500e6]
    rates = [bytes_read(point) / point.seconds / 1e12 for point in large]
    assert 1.2 < min(rates) < max(rates) < 1.9
    assert not any("rejected" in point.flags for point in result.points)
