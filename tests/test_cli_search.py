"""`kvsim search`: table, sentence, JSON, folder, plot, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from kvsim.cli import main
from kvsim.reports.search import plot_search_curve

FLAGS = ("--cost", "linear:0.1,0,0", "--max-num-seqs", "1", "--max-model-len", "64", "-j", "1")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    made = [{"arrival_s": float(i), "prompt_len": 1, "output_len": 1} for i in range(60)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in made))
    return path


def test_the_answer_is_the_last_line(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["search", "rate", str(rows), *FLAGS])

    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["rate", "met", "by"]
    assert printed[-1].startswith("paged, llama-3.1-8b on a100-80-sxm, rows.jsonl: up to 10")
    assert "requests/s with a queue that does not grow" in printed[-1]
    assert any("linear:0.1,0,0 (assumed)" in line for line in printed)


def test_json_is_one_object_with_the_curve(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["search", "rate", str(rows), *FLAGS, "--slo", "ttft_p99=150ms", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert found["found"] is True
    assert found["knob"] == "rate"
    assert found["value"] == pytest.approx(10, rel=0.1)
    assert {row["seeds_met"] for row in found["curve"]} == {0, 1}


def test_no_value_within_the_limits_exits_with_one_and_says_why(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["search", "rate", str(rows), *FLAGS, "--slo", "ttft_p99=50ms"])

    assert caught.value.code == 1
    assert "no rate from" in capsys.readouterr().out.splitlines()[-1]


def test_the_folder_has_curve_runs_answer_and_plot(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["search", "rate", str(rows), *FLAGS, "--resample", "poisson", "--seeds", "2", "-o", str(out)])
    main(["search", "rate", str(rows), *FLAGS, "--resample", "poisson", "--seeds", "2", "-o", str(out)])

    names = {path.name for path in out.iterdir()}
    files = {"curve.csv", "curve.parquet", "runs.parquet", "search.json", "search.png", "search.svg"}
    assert names == files | {"points"}
    curve = pd.read_csv(out / "curve.csv")
    assert curve["value"].is_monotonic_increasing
    assert len(pd.read_parquet(out / "runs.parquet")) == len(list((out / "points").iterdir()))


def test_a_workload_needs_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "search",
            "block-size",
            "alpaca",
            "--requests",
            "30",
            "--rate",
            "5",
            "--objective",
            "e2e_mean",
            "-j",
            "1",
        ]
    )

    printed = capsys.readouterr().out
    assert "alpaca (30 requests, generated anew, arrivals poisson)" in printed
    assert "is best: e2e mean" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rate nothing.csv", "'nothing.csv' is neither a file nor a workload"),
        ("rate sharegtp", "(did you mean 'sharegpt'"),
        ("rate sharegpt --head 5", "--head goes with a trace file, not with workload sharegpt"),
        ("rate sharegpt --resample gamma", "--resample goes with a trace file"),
        ("rate sharegpt --requests 0", "--requests must be at least 1"),
        ("speed sharegpt", "Invalid value"),
        ("rate sharegpt --slo ttft_p99=2", "as in 200ms or 2s"),
        ("num-gpu-blocks sharegpt --requests 5", "give an arrival rate"),
        ("rate sharegpt --policy nothing", "unknown policy 'nothing'"),
    ],
)
def test_wrong_use_is_one_line_and_exits_with_two(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["search", *arguments.split()])

    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def curve(**columns: list[float] | list[bool] | list[str]) -> pd.DataFrame:
    rows = len(columns["value"])
    return pd.DataFrame({"knob": ["rate"] * rows, "unit": ["requests/s"] * rows} | columns)


def test_the_curve_is_drawn_over_the_limit_with_the_answer_marked() -> None:
    frame = curve(
        value=[1.0, 2.0, 4.0], seeds=[2, 2, 2], seeds_met=[2, 1, 0], strain_mean=[0.5, 1.0, float("inf")],
        strain_min=[0.4, 0.9, 3.0], strain_max=[0.6, 1.2, float("inf")],
        answer=[1.9] * 3, answer_low=[1.5] * 3, answer_high=[2.2] * 3,
    )  # fmt: skip
    axes = plot_search_curve(frame)

    _, labels = axes.get_legend_handles_labels()
    assert {"every draw keeps to the limits", "some do", "none does", "limit", "answer"} <= set(labels)
    assert axes.get_xlabel() == "rate (requests/s)"


def test_scores_are_drawn_from_zero_with_the_best_marked() -> None:
    frame = curve(
        value=[8.0, 16.0, 512.0], seeds=[2, 2, 2], seeds_met=[2, 2, 0], score_mean=[5.0, 6.0, float("nan")],
        score_min=[4.0, 5.5, float("nan")], score_max=[6.0, 6.5, float("nan")],
        objective=["rate"] * 3, objective_unit=["requests/s"] * 3, is_best=[False, True, False],
    )  # fmt: skip
    axes = plot_search_curve(frame)

    assert axes.get_ylabel() == "Highest rate within the limits (requests/s)"
    assert axes.get_ylim()[0] == 0
    assert "does not keep to the limits" in axes.get_legend_handles_labels()[1]
