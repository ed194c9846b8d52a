"""The step log: its fields, its files, and that a failed run leaves none."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from recording import CONFIG, ROWS, record

from kvsim.cli.verify import case_policy, case_workload
from kvsim.engine import Simulation
from kvsim.errors import InputError
from kvsim.manifest import read_manifest
from kvsim.step_log import StepLog


def logged(folder: Path, log: StepLog, **changes: object) -> list[dict[str, object]]:
    """Run the small recording with a log; return the steps that the recording has."""
    (case,) = read_manifest(record(folder, **changes))
    workload, policy = case_workload(case), case_policy(case.config)
    policy.reset(case.config.pool(workload))
    simulation = Simulation(workload, policy, case.config.limits("0.32"), case.config.clock())
    simulation.replica.watch = log
    simulation.run()
    lines = gzip.decompress(case.log.read_bytes()).splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "step"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_log_equals_the_recording_line_by_line(tmp_path: Path, asynchronous: bool) -> None:
    stream = io.StringIO()

    theirs = logged(tmp_path, StepLog(stream, asynchronous), async_scheduling=asynchronous)

    ours = [json.loads(line) for line in stream.getvalue().splitlines()]
    fields = {"kind", "step", "t0", "t1", "sched", "new", "preempt", "fin", "run", "wait", "blk", "ctx"}
    assert set(ours[0]) == fields | ({"ts"} if asynchronous else set())
    assert ours == [{key: row[key] for key in mine} for mine, row in zip(ours, theirs, strict=True)]


def test_fields_come_in_the_documented_order(tmp_path: Path) -> None:
    stream = io.StringIO()

    logged(tmp_path, StepLog(stream, True), async_scheduling=True)

    first = json.loads(stream.getvalue().splitlines()[0])
    assert " ".join(first) == "kind step t0 t1 ts sched new preempt fin run wait blk ctx"


@pytest.mark.parametrize("name", ["steps.jsonl", "steps.jsonl.gz"])
def test_a_file_appears_whole_when_it_is_closed(tmp_path: Path, name: str) -> None:
    log = StepLog(tmp_path / name)
    steps = logged(tmp_path, log)

    assert not (tmp_path / name).exists()
    log.close()
    log.close()

    data = (tmp_path / name).read_bytes()
    text = gzip.decompress(data) if name.endswith(".gz") else data
    assert len(text.splitlines()) == len(steps) == log.steps
    assert not list(tmp_path.glob(".*"))


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        with StepLog(tmp_path / name) as log:
            logged(tmp_path, log)

    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_run_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text("old")

    log = StepLog(path)
    logged(tmp_path, log)
    log.__exit__(RuntimeError, RuntimeError(), None)

    assert path.read_text() == "old"
    assert not list(tmp_path.glob(".*"))


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none/steps\.jsonl: cannot be written: No such file"):
        StepLog(tmp_path / "none" / "steps.jsonl")


def test_a_log_cannot_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    log = StepLog(tmp_path / "steps")

    with pytest.raises(InputError, match=r"steps: cannot be written: Is a directory"):
        log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["steps"]


def test_the_recording_used_here_is_worth_logging(tmp_path: Path) -> None:
    steps = logged(tmp_path, StepLog(io.StringIO()))

    assert len(ROWS) == 4
    assert CONFIG["enable_prefix_caching"]
    for field in ("preempt", "new", "fin"):
        assert any(row[field] for row in steps)
    assert any(hit for row in steps for _, hit in row["new"])  # type: ignore[attr-defined]
