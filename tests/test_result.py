"""What a run leaves: frames, run.json, and folders that are whole or not there."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import Row, trace

from kvsim import InputError, Result, compare, load_result, simulate
from kvsim.ledger import CATEGORIES
from kvsim.traces import Trace
from kvsim.traces.generate import generate

README = Path(__file__).resolve().parents[1] / "reports" / "README.md"
ROWS: list[Row] = [(0, 5, 3), (0.5, 9, 1), (1, 70, 2), (1, 4, 4)]
"""The third does not fit the longest sequence."""


def simulated(work: Trace | None = None, policy: str = "paged", **changes: object) -> Result:
    """Run in 19 usable blocks of 4 tokens, a second a step."""
    settings = {"num_gpu_blocks_override": 20, "block_size": 4, "max_model_len": 64, "cost": "linear:1,0,0"}
    return simulate(trace(*ROWS) if work is None else work, policy, **{**settings, **changes})


def documented(title: str) -> list[str]:
    """Return the names in the first column of a table of reports/README.md, in order."""
    section = README.read_text(encoding="utf-8").partition(f"## {title}")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)]


def test_requests_have_the_documented_columns_in_order() -> None:
    assert list(simulated().requests) == documented("Requests")


def test_timeline_has_the_documented_columns_in_order() -> None:
    assert list(simulated().timeline) == documented("Timeline")


def test_summary_has_every_documented_key() -> None:
    summary = simulated(goodput="ttft:200").summary

    assert set(documented("Summary")) - {"hull_share"} <= {"policy", *summary}


def test_requests_are_in_trace_order_with_what_happened_to_each() -> None:
    frame = simulated().requests

    assert frame["arrival_s"].tolist() == [0, 0.5, 1, 1]
    assert frame["first_scheduled_s"].tolist()[:2] == [0, 1]
    assert frame["ttft_ms"].tolist()[:2] == [1000, 1500]
    assert frame["e2el_ms"].tolist()[:2] == [3000, 1500]
    assert frame["status"].tolist() == ["completed", "completed", "rejected", "completed"]


def test_rejected_request_has_its_reason_and_no_times() -> None:
    row = simulated().requests.iloc[2]

    assert row["reason"] == "prompt of 70 tokens does not fit max_model_len 64 with an output"
    assert (
        row[["first_scheduled_s", "first_token_s", "finish_s", "ttft_ms", "tpot_ms", "e2el_ms"]].isna().all()
    )


def test_single_output_has_no_time_per_output_token() -> None:
    result = simulated(trace((0, 5, 1), (0, 5, 3)))

    assert result.requests["tpot_ms"].isna().tolist() == [True, False]
    assert result.summary["mean_tpot_ms"] == result.summary["p99_tpot_ms"] == 1000
    assert simulated(trace((0, 5, 1))).summary["mean_tpot_ms"] is None


def test_outputs_are_those_that_were_generated() -> None:
    result = simulated(trace((0, 60, 100)))

    assert result.requests["output_tokens"].tolist() == [4]
    assert result.summary["total_output_tokens"] == 4


def test_goodput_counts_requests_within_every_limit() -> None:
    def goodput(limits: str) -> float:
        return float(simulated(goodput=limits).summary["request_goodput"])

    # Time to first token 1, 1.5 and 1 s, end to end 3, 1.5 and 4 s, over 5 s; a single output has TPOT 0.
    assert goodput("ttft:1400") == 2 / 5
    assert goodput("tpot:999") == 1 / 5
    assert goodput("ttft:1500,e2el:3000") == 2 / 5
    assert "request_goodput" not in simulated().summary


@pytest.mark.parametrize("text", ["ttft", "ttft:fast", "itl:5", "", "ttft:-1", "ttft:nan"])
def test_goodput_that_cannot_be_read_is_said(text: str) -> None:
    with pytest.raises(InputError, match="goodput must be like ttft:200"):
        simulated(goodput=text)


def test_saved_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    result = simulated()

    folder = result.save(tmp_path / "deep" / "run")

    read = load_result(folder)
    assert (read.summary, read.environment) == (result.summary, result.environment)
    assert read.config == json.loads(json.dumps(result.config))
    pd.testing.assert_frame_equal(read.requests, result.requests)
    pd.testing.assert_frame_equal(read.timeline, result.timeline)
    assert repr(read) == repr(result) == "<Result paged on 'by hand': 3 completed>"


def test_run_json_says_what_the_numbers_depend_on(tmp_path: Path) -> None:
    work = trace(*ROWS)

    record = json.loads((simulated(work).save(tmp_path / "run") / "run.json").read_text())

    assert (record["format"], record["version"]) == ("kvsim-run", 1)
    config = record["config"]
    assert config["trace"] == {"name": "by hand", "requests": 4, "sha256": work.sha256()}
    assert config["policy"] == "paged"
    assert config["policy_parameters"]["block_size"] == config["settings"]["block_size"] == 4
    assert config["pool"]["slots"] == 76
    assert config["cost"].endswith("(assumed)")
    assert {"kvsim", "python", "numpy"} <= set(record["environment"])


def test_folder_holds_its_files_and_nothing_else(tmp_path: Path) -> None:
    simulated().save(tmp_path / "run")

    files = ["itl.parquet", "requests.parquet", "run.json", "timeline.parquet"]
    assert sorted(os.listdir(tmp_path / "run")) == files
    assert os.listdir(tmp_path) == ["run"]


def test_same_run_leaves_the_same_bytes(tmp_path: Path) -> None:
    work = generate("chat", 30, rate=2.0, seed=3, turns=3)
    folders = [
        simulated(work, "prefix", num_gpu_blocks_override=800, max_model_len=2048).save(tmp_path / name)
        for name in ("one", "two")
    ]

    for file in sorted(os.listdir(folders[0])):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


def test_empty_folder_is_used_and_a_full_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    simulated().save(tmp_path / "run")

    with pytest.raises(InputError, match=r"output folder '.*run' exists and is not empty; name a new one"):
        simulated().save(tmp_path / "run")


def test_file_in_the_way_is_said_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(InputError, match="exists and is not a folder"):
        simulated().save(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        simulated().save(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "mine"
    assert os.listdir(tmp_path) == ["file"]


def test_failure_while_saving_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)

    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        simulated().save(tmp_path / "run")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [None, "{", '{"format": "other"}'])
def test_folder_without_a_run_is_said(tmp_path: Path, content: str | None) -> None:
    folder = simulated().save(tmp_path / "run")
    (folder / "run.json").unlink()
    if content is not None:
        (folder / "run.json").write_text(content)

    with pytest.raises(InputError, match=r"not a run folder|format must be kvsim-run"):
        load_result(folder)


def test_comparison_leaves_one_folder_a_policy_and_one_table(tmp_path: Path) -> None:
    comparison = compare(
        trace(*ROWS), ["paged", "prefix:watermark=0.1"], num_gpu_blocks_override=20, max_model_len=64
    )

    folder = comparison.save(tmp_path / "out", finish=lambda place: (place / "more.txt").write_text("x"))

    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["compare.csv", "more.txt"]
    table = pd.read_csv(folder / "compare.csv")
    assert table["policy"].tolist() == ["paged", "prefix:watermark=0.1"]
    runs = [load_result(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    assert [run.config["policy"] for run in runs] == ["paged", "prefix"]
    assert set(comparison.requests["policy"]) == set(comparison.timeline["policy"]) == set(table["policy"])


def test_timeline_covers_the_run_without_a_gap() -> None:
    result = simulated(
        generate("sharegpt", 50, rate=3.0, seed=1), num_gpu_blocks_override=700, max_model_len=2048
    )

    frame = result.timeline
    assert frame["start_s"].tolist()[1:] == frame["end_s"].tolist()[:-1]
    assert frame["end_s"].iloc[-1] - frame["start_s"].iloc[0] == pytest.approx(result.summary["duration"])
    assert frame["steps"].sum() == result.summary["steps"]
    assert frame["tokens"].sum() == result.summary["computed_tokens"]
    np.testing.assert_allclose(frame[list(CATEGORIES)].sum(axis=1), 1)


def test_merged_timeline_has_the_same_means() -> None:
    result = simulated(trace(*[(0.0, 1, 60)] * 3000), max_num_seqs=10)

    frame, summary = result.timeline, result.summary
    assert summary["steps"] > 2 * len(frame)
    seconds = frame["end_s"] - frame["start_s"]
    for name in (*CATEGORIES, "kv_cache_usage"):
        assert (frame[name] * seconds).sum() / seconds.sum() == pytest.approx(summary[name])
    for name in ("running", "waiting"):
        assert (frame[name] * seconds).sum() / seconds.sum() == pytest.approx(summary[f"{name}_mean"])


def test_empty_trace_gives_empty_frames_and_no_division_by_zero(tmp_path: Path) -> None:
    result = simulated(trace())

    assert len(result.requests) == len(result.timeline) == 0
    assert (result.summary["completed"], result.summary["request_throughput"]) == (0, 0)
    assert result.summary["mean_ttft_ms"] is None
    assert load_result(result.save(tmp_path / "run")).summary == result.summary
