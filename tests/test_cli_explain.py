"""`kvsim explain`: a run done again from its folder, as tables, text, JSON and CSV."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kvsim import simulate
from kvsim.cli import main
from kvsim.cli.explain import again
from kvsim.result import load_result
from kvsim.traces.read import read_trace

FLAGS = ("--cost", "linear:0.01,1e-5,0", "--block-size", "4", "--num-gpu-blocks-override", "30")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    made = [
        {
            "arrival_s": i / 100,
            "prompt_len": 40,
            "output_len": 40,
            "hash_ids": [5, i + 10, i + 50],
            "priority": i,
        }
        for i in range(12)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in made))
    return path


@pytest.fixture
def run(trace: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    return ran(trace, capsys, "--policy", "prefix", "--head", 10)


def ran(trace: Path, capsys: pytest.CaptureFixture[str], *flags: object) -> Path:
    """Run under memory pressure; return the folder."""
    folder = trace.with_name("run")
    main(["run", str(trace), "--hash-block-tokens", "16", *FLAGS, *map(str, flags), "-o", str(folder)])
    capsys.readouterr()
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line with which the command ends."""
    with pytest.raises(SystemExit) as stopped:
        main(["explain", *map(str, arguments)])
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_three_tables_say_why(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", str(run)])

    printed = capsys.readouterr()
    for text in (
        "Why requests waited",
        "blocks",
        "head of line",
        "What preemptions cost:",
        "recomputed",
        "Where prompts were when first scheduled (400 tokens of 10 requests)",
        "never seen",
        "too short",
        "| seed 0 | kvsim",
    ):
        assert text in printed.out
    assert printed.err == ""


def test_a_policy_that_shares_nothing_says_so(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", str(ran(trace, capsys, "--policy", "contiguous:reservation=oracle"))])

    printed = capsys.readouterr().out
    assert "Nobody was preempted." in printed
    assert "Policy contiguous-oracle shares nothing: no prefix was looked up." in printed


def test_a_run_in_which_nobody_waited_says_so(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", str(ran(trace, capsys, "--head", 1))])

    assert "Nobody waited." in capsys.readouterr().out


def test_one_request_is_told_as_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", str(run), "--request", "3"])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Request 3"
    assert lines[1].endswith("s  comes with 40 prompt tokens, 40 output tokens")
    assert "is finished" in lines[-1]


def test_json_adds_up_to_the_summary(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", str(run), "--json"])

    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    summary = load_result(run).summary
    assert found["preemptions"]["preemptions"] == summary["preemptions"] > 0
    assert found["preemptions"]["recomputed_tokens"] == summary["recomputed_tokens"]
    assert found["prefix_tokens"]["hit"] == summary["cached_tokens"] > 0
    assert sum(found["prefix_tokens"].values()) == summary["total_input_tokens"]
    assert sum(total["share"] for total in found["waits"]) == pytest.approx(1)


def test_json_of_a_request_has_its_events(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", str(run), "--request", "0", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert found["request"] == 0
    assert set(found["events"][0]) == {"time", "text"}


def test_csv_files_hold_every_record(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", str(run), "--limit", "1", "-o", str(tmp_path / "why")])

    assert "--limit shows more" in capsys.readouterr().out
    summary = load_result(run).summary
    assert len(pd.read_csv(tmp_path / "why" / "preemptions.csv")) == summary["preemptions"] > 1
    assert len(pd.read_csv(tmp_path / "why" / "lookups.csv")) == 10
    assert (pd.read_csv(tmp_path / "why" / "waits.csv")["end_s"] > 0).all()


def test_doing_it_again_gives_the_same_numbers(run: Path) -> None:
    result = load_result(run)

    now = again(result, run, None).result

    assert now.requests.equals(result.requests)


def test_a_trace_that_moved_is_named_with_a_flag(
    run: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = trace.rename(trace.with_name("moved.jsonl"))

    assert "rows.jsonl: the run's trace is not there any more; say with --trace" in refused(capsys, run)
    main(["explain", str(run), "--trace", str(elsewhere)])
    assert "Why requests waited" in capsys.readouterr().out


def test_a_trace_that_changed_is_refused(run: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace.write_text(trace.read_text().replace('"prompt_len": 40', '"prompt_len": 41', 1))

    said = refused(capsys, run)
    assert "rows.jsonl: not the trace of this run: 10 requests with sha256" in said
    assert "the run had 10 with" in said


def test_a_run_from_python_needs_the_trace_named(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = read_trace(trace, hash_block_tokens=16)
    policy = "contiguous:reservation=oracle"
    folder = simulate(work, policy, cost="linear:0.01,0,0").save(tmp_path / "mine")

    assert "does not say which file its trace 'rows.jsonl' is; name it with --trace" in refused(
        capsys, folder
    )


def test_a_run_from_python_is_done_again_by_its_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text('{"arrival_s": 0, "prompt_len": 40, "output_len": 5}\n')
    folder = simulate(read_trace(path), "contiguous:reservation=oracle").save(tmp_path / "mine")

    main(["explain", str(folder), "--trace", str(path)])

    assert "Policy contiguous-oracle shares nothing" in capsys.readouterr().out


def test_a_policy_from_a_file_is_found_again(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from kvsim.policies.paged import PagedPolicy\nclass Mine(PagedPolicy):\n    name = 'mine'\n"
    )

    main(["explain", str(ran(trace, capsys, "--policy", f"{mine}:Mine"))])

    assert "Policy mine shares nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "--request", "10"], "request must be a row of the trace, 0 to 9, got 10"),
        (["{run}", "--request", "-1"], "request must be a row of the trace, 0 to 9, got -1"),
        (["{run}", "--limit", "-1"], "--limit must be 0 or more, got -1"),
        (["{above}"], "not a run folder: no run.json in it; it holds run"),
        (["{above}/none"], "there is no such folder"),
        (["{run}", "-o", "{run}"], "exists and is not empty"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *(part.format(run=run, above=run.parent) for part in arguments))


def test_other_numbers_than_the_folders_are_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((run / "run.json").read_text())
    record["summary"]["completed"] = 9
    (run / "run.json").write_text(json.dumps(record))

    main(["explain", str(run)])

    assert "it differs, first in completed: 9 then, 10 now" in capsys.readouterr().err


def test_settings_of_another_version_are_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((run / "run.json").read_text())
    record["config"]["settings"]["warp"] = 9
    (run / "run.json").write_text(json.dumps(record))

    assert "the run is from another version of kvsim: unknown setting 'warp'" in refused(capsys, run)


def test_a_folder_that_was_copied_still_finds_its_trace(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "deep" / "copy")

    main(["explain", str(tmp_path / "deep" / "copy")])

    assert "Why requests waited" in capsys.readouterr().out
