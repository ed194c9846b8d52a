"""Steps beyond what a profile measured: counted in the summary, saved, and said on the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic_device as device
from small_tables import config_json

from kvsim.cli import main

INSIDE, BEYOND = "0,200,30\n0,300,30\n", "0,200,30\n9,3000,900\n"
HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Return the flags of a run on a small model with a profile of decodes up to 512 tokens each."""
    points = [point for point in device.every_point() if point.op != "attn_decode" or max(point.kv) <= 512]
    points += [
        device.attention("attn_decode", (1,) * n, (length,) * n)
        for n in device.COUNTS
        for length in (32, 512)
    ]
    path = device.profile(points).save(tmp_path / "p.json")
    return ["--model", str(config_json(tmp_path)), "--gpu", "l4", "--cost", str(path)]


def trace(folder: Path, rows: str) -> str:
    (folder / "t.csv").write_text(HEADER + rows)
    return str(folder / "t.csv")


def test_a_run_beyond_what_was_measured_says_so_everywhere(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", trace(tmp_path, BEYOND), *given, "-o", str(tmp_path / "out"), "--json"])

    printed = capsys.readouterr()
    share = json.loads(printed.out)["summary"]["hull_share"]
    assert 0 < share < 0.5
    assert f"paged: {1 - share:.1%} of the steps lie outside what the cost profile measured" in printed.err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["summary"]["hull_share"] == share


def test_a_run_within_what_was_measured_says_nothing(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", trace(tmp_path, INSIDE), *given, "--json"])

    printed = capsys.readouterr()
    assert json.loads(printed.out)["summary"]["hull_share"] == 1.0
    assert "outside what the cost profile measured" not in printed.err


def test_a_comparison_says_it_of_each_policy(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", trace(tmp_path, BEYOND), *given, "--policies", "paged,contiguous"])

    printed = capsys.readouterr().err
    for policy in ("paged", "contiguous"):
        assert f"{policy}: " in printed
    assert printed.count("of the steps lie outside what the cost profile measured") == 2


def test_costs_that_measured_nothing_have_no_share(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", trace(tmp_path, INSIDE), *given[:4], "--cost", "linear:1e-3,1e-6,1e-9", "--json"])

    assert "hull_share" not in json.loads(capsys.readouterr().out)["summary"]
