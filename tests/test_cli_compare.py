"""`kvsim compare`: one table, one folder, whoever does the work."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from kvsim.cli import main

FLAGS = ("--cost", "linear:0.01,1e-5,0", "--model", "mistral-7b-v0.1", "--max-model-len", "512")
PLOTS = ("comparison", "memory_split", "memory_over_time", "batch_size", "latency_cdf")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    made = [{"arrival_s": i / 4, "prompt_len": 40 + i, "output_len": 5} for i in range(12)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in made))
    return path


def test_the_table_has_a_column_a_policy(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(rows), *FLAGS])

    printed = capsys.readouterr().out
    for name in ("contiguous", "paged", "prefix", "sliding-", "running, max", "TTFT, p99", "hit rate"):
        assert name in printed


def test_json_has_the_settings_and_every_summary(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(rows), *FLAGS, "--policies", "paged,contiguous:reservation=pow2", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert list(found["policies"]) == ["paged", "contiguous:reservation=pow2"]
    assert found["settings"]["model"] == "mistral-7b-v0.1"
    assert found["trace"]["requests"] == 12


def test_policies_that_hold_samples_are_compared_unless_others_are_named(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", str(rows), "--samples", "2", "--json"])

    assert list(json.loads(capsys.readouterr().out)["policies"]) == ["contiguous", "paged"]


def test_markdown_is_a_table_with_a_caption(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", str(rows), *FLAGS, "--policies", "paged", "--markdown"])

    printed = capsys.readouterr().out
    assert printed.startswith("|  | paged |\n| --- | ---: |\n")
    assert printed.rstrip().endswith("*")


def test_the_folder_has_the_table_the_plots_and_a_run_a_policy(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    main(["compare", str(rows), *FLAGS, "--policies", "paged,paged:block_size=32", "-o", str(folder)])

    names = {path.name for path in folder.iterdir()}
    plots = {f"{name}.{kind}" for name in PLOTS for kind in ("png", "svg")}
    assert names == {"compare.csv", "paged", "paged_block_size=32"} | plots
    assert pd.read_csv(folder / "compare.csv")["policy"].tolist() == ["paged", "paged:block_size=32"]
    assert (folder / "paged" / "run.json").is_file()


def test_worker_processes_find_the_same_numbers(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for jobs in ("1", "2"):
        main(["compare", str(rows), *FLAGS, "--policies", "paged,contiguous", "--json", "--jobs", jobs])
        printed.append(capsys.readouterr().out)

    assert printed[0] == printed[1]


def test_where_nothing_runs_there_is_a_table_and_no_plot(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            "compare",
            str(rows),
            "--max-model-len",
            "8",
            "--policies",
            "paged,prefix",
            "-o",
            str(tmp_path / "out"),
        ]
    )

    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.csv", "paged", "prefix"}
    assert "12 requests rejected" in capsys.readouterr().err


def test_a_policy_that_rejects_all_stands_beside_one_that_runs(rows: Path, tmp_path: Path) -> None:
    flags = ("--max-model-len", "100000", "--num-gpu-blocks-override", "64")
    main(["compare", str(rows), *flags, "--policies", "contiguous,paged", "-o", str(tmp_path / "out")])

    table = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert table["completed"].tolist() == [0, 12]
    assert (tmp_path / "out" / "comparison.svg").is_file()


def test_a_window_that_the_model_does_not_have_is_said(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", str(rows), "--policies", "sliding-window"])

    assert "llama-3.1-8b has no windowed layers" in capsys.readouterr().err


def test_parameters_in_json_have_commas_of_their_own(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = 'sliding-window:kv_groups=[{"type":"full"},{"type":"swa","window":64}]'
    main(["compare", str(rows), *FLAGS, "--policies", f"paged,{groups}", "--json"])

    assert list(json.loads(capsys.readouterr().out)["policies"]) == ["paged", groups]
