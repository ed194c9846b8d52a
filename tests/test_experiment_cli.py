"""`kvsim compare experiment.toml`: what is printed, what is left, and how it exits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from kvsim.cli import main
from kvsim.experiment_file import read_experiment

SMALL = """
name = "small one"
[base]
workload = "alpaca"
requests = 12
rate = 4
cost = "linear:0.01,1e-5,0"
max-model-len = 512
[sweep]
policy = ["paged", "prefix"]
block-size = [16, 32]
"""
GUIDE = Path(__file__).parents[1] / "reports" / "experiments.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment.toml").write_text(SMALL)
    return tmp_path


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as left:
        main(["compare", *arguments])
    return left.value.code


def test_the_table_has_a_row_a_cell_and_what_it_rests_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", "experiment.toml", "-j", "1"])

    printed = capsys.readouterr()
    assert len(re.findall(r"^ (paged|prefix)  +(16|32) ", printed.out, re.MULTILINE)) == 4
    assert "trace alpaca (12 requests, sha256" in printed.out
    assert "(assumed)" in printed.out
    assert "Written to small_one: cells.csv" in printed.err
    assert pd.read_csv(here / "small_one" / "cells.csv")["completed"].tolist() == [12] * 4


def test_a_dry_run_lists_the_cells_and_runs_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "experiment.toml", "--dry-run", "-o", "out"])

    printed = capsys.readouterr()
    assert [line.split("  ")[-1] for line in printed.out.splitlines()][:2] == [
        "policy=paged,block_size=16",
        "policy=paged,block_size=32",
    ]
    assert "4 cells, 0 finished, 4 to run" in printed.err
    assert not (here / "out").exists()


def test_a_dry_run_says_what_is_finished(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "experiment.toml", "-j", "1", "-o", "out", "--json"])
    rows = json.loads(capsys.readouterr().out)["cells"]

    (here / "experiment.toml").write_text(SMALL.replace("[16, 32]", "[16, 64]"))
    main(["compare", "experiment.toml", "--dry-run", "-o", "out", "--json"])

    listed = json.loads(capsys.readouterr().out)["cells"]
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert [row["finished"] for row in listed] == [True, False, True, False]
    assert listed[0]["key"] == rows[0]["key"]


def test_markdown_is_a_table_with_a_caption(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "experiment.toml", "-j", "1", "--markdown"])

    printed = capsys.readouterr().out
    assert printed.startswith("| policy | block\\_size | requests/s |")
    assert printed.rstrip().endswith("*")


def test_a_failed_cell_is_said_and_makes_the_exit_code_1(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "experiment.toml").write_text(SMALL.replace("[16, 32]", "[16, -1]"))

    assert exit_code("experiment.toml", "-j", "1") == 1
    printed = capsys.readouterr()
    assert "2 of 4 cells failed; the first is policy=paged,block_size=-1:" in printed.err
    assert "failed" in printed.out


def test_a_finished_experiment_exits_with_0_and_runs_nothing_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["compare", "experiment.toml", "-j", "1"])
    finished = {path.name: path.read_bytes() for path in here.rglob("cells/*.json")}
    monkeypatch.setattr("kvsim.experiment_run.run_task", None)

    main(["compare", "experiment.toml", "-j", "1"])

    assert finished
    assert {path.name: path.read_bytes() for path in here.rglob("cells/*.json")} == finished


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "qwen3-32b"), "--model goes with a trace; experiment.toml says it in [base] or [sweep]"),
        (("--head", "5"), "--head goes with a trace"),
        (("--policies", "paged"), "--policies goes with a trace"),
        (("--max-cells", "3"), "experiment.toml: 4 cells, and at most 3 may be run"),
        (("--scheduler-address", "tcp://x:1"), "a scheduler address goes with backend ray or dask"),
        (("--backend", "dusk"), "dusk"),
        (("--jobs", "0"), "--jobs must be at least 1, got 0"),
        (("-o", "."), "exists and is not an experiment's; name a new one"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    del here

    assert exit_code("experiment.toml", *arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("flag", ["--dry-run", "--max-cells=5", "--backend=dask"])
def test_flags_of_experiments_are_not_taken_silently_with_a_trace(
    here: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    (here / "rows.jsonl").write_text('{"arrival_s": 0, "prompt_len": 4, "output_len": 2}\n')

    assert exit_code("rows.jsonl", flag) == 2
    assert f"{flag.partition('=')[0]} goes with an experiment's .toml file" in capsys.readouterr().err


def test_seeds_that_draw_nothing_are_remarked_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"arrival_s": i, "prompt_len": 40, "output_len": 5}) for i in range(9)]
    (here / "rows.jsonl").write_text("\n".join(rows))
    (here / "a.toml").write_text('seeds = 2\n[base]\ntrace = "rows.jsonl"\ncost = "linear:0.01,1e-5,0"\n')

    main(["compare", "a.toml", "-j", "1"])

    assert "the seeds make no difference" in capsys.readouterr().err


def test_an_interruption_says_what_is_kept(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvsim.cell_run import run_task

    ran: list[str] = []

    def stop_after_two(task: object) -> object:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append("one")
        return run_task(task)  # type: ignore[arg-type]

    monkeypatch.setattr("kvsim.experiment_run.run_task", stop_after_two)

    assert exit_code("experiment.toml", "-j", "1", "-o", "out") == 130
    assert "2 of 4 cells are kept in out; the same command goes on from there" in capsys.readouterr().err
    assert pd.read_csv(here / "out" / "cells.csv")["status"].tolist() == ["ok", "ok", "missing", "missing"]


def test_the_example_in_the_guide_runs_as_it_stands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GUIDE.read_text().partition("```toml\n")[2].partition("```")[0]
    (here / "guide.toml").write_text(text)
    cells = read_experiment(here / "guide.toml").expanded()

    smaller = text.replace("requests = 200", "requests = 8").replace("max-cells = 200", "max-cells = 80")
    (here / "guide.toml").write_text(smaller)
    main(["compare", "guide.toml", "-j", "1", "--json"])

    rows = json.loads(capsys.readouterr().out)["cells"]
    assert len(rows) == len(cells) == 2 * (3 * 3 * 2 * 2 + 1)
    assert {row["status"] for row in rows} == {"ok"}
    assert rows[-1]["cell"] == "half the blocks,seed=1"
