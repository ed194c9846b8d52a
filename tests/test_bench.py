"""The benchmarks run, at sizes too small to tell anything, and say what is absent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.rows import Row, Target, table

ROOT = Path(__file__).resolve().parents[1]


def bench(module: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def rows(group: str) -> dict[str, dict[str, Any]]:
    done = bench("tests.bench", "--only", group, "--scale", "0.002", "--repeat", "1", "--json")
    assert not done.returncode, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)["rows"]}


@pytest.mark.parametrize("group", ["lognormal", "mooncake", "million", "steps", "startup"])
def test_every_row_has_a_figure_or_says_why_not(group: str) -> None:
    found = rows(group)

    assert found
    for row in found.values():
        assert row["why"] or row["figure"] is not None
        assert row["why"] or row["unit"]


def test_a_comparison_is_timed_without_its_start_up() -> None:
    (row,) = rows("compare").values()

    assert row["target"] == {"value": 3.0, "is_most": True}
    assert row["notes"]["start-up"] > 0


def test_an_unknown_group_is_answered_with_the_nearest() -> None:
    done = bench("tests.bench", "--only", "step")

    assert done.returncode == 2
    assert "unknown group 'step' (did you mean 'steps'" in done.stderr


@pytest.mark.parametrize("words", [("--repeat", "0"), ("--scale", "1.5"), ("--scale", "x")])
def test_bad_numbers_are_refused(words: tuple[str, str]) -> None:
    done = bench("tests.bench", *words)

    assert done.returncode == 2
    assert "must be" in done.stderr


def test_a_target_is_met_from_its_own_side() -> None:
    assert Target(value=3.0, is_most=True).met_by(3.0)
    assert not Target(value=3.0, is_most=True).met_by(3.1)
    assert Target(value=3.0).met_by(3.1)
    assert not Target(value=3.0).met_by(2.9)


def test_the_table_puts_the_target_beside_the_figure() -> None:
    text = table(
        [
            Row(
                name="fast", figure=120_000.0, unit="requests/CPU-s", target=Target(value=100_000), loop=0.02
            ),
            Row(name="gone", why="no trace"),
        ]
    )

    assert "120,000 requests/CPU-s" in text
    assert "≥ 100,000" in text
    assert text.splitlines()[3].split() == ["gone", "absent", "no", "trace"]


def test_peers_that_cannot_be_installed_are_said_to_be_absent(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = bench("tests.bench.peers", "--venv", tmp_path / "file" / "x", "--requests", "20", "--repeat", "1")

    assert not done.returncode, done.stderr
    assert "| kvsim |" in done.stdout
    assert "Dynamo mocker 1.6.1: absent: " in done.stdout
    assert "sched-sim 0.2.1: absent: " in done.stdout
