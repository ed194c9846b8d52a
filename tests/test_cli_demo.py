"""`kvsim demo`: nothing to set up, nothing rejected, four policies that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim import reports
from kvsim.cli import main
from kvsim.comparison import Comparison
from kvsim.reports.headline import sentences
from kvsim.result import Result


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "report"
    main(["demo", "-o", str(folder)])
    return folder


def summaries(folder: Path) -> dict[str, dict[str, Any]]:
    names = ("contiguous", "paged", "prefix", "sliding-window")
    return {name: json.loads((folder / name / "run.json").read_text())["summary"] for name in names}


def test_the_demo_rejects_nothing_and_tells_the_policies_apart(shown: Path) -> None:
    rows = summaries(shown)

    assert [row["rejected"] for row in rows.values()] == [0, 0, 0, 0]
    assert 4 <= rows["contiguous"]["running_max"] <= 8
    assert rows["contiguous"]["waste"] > 2 * rows["paged"]["waste"] > 4 * rows["sliding-window"]["waste"]
    assert rows["prefix"]["prefix_cache_hit_rate"] > 0.5
    assert rows["prefix"]["median_ttft_ms"] < rows["paged"]["median_ttft_ms"]
    assert rows["sliding-window"]["batch_capacity"] > rows["paged"]["batch_capacity"]


def test_every_plot_of_the_demo_is_small(shown: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in shown.glob("*.svg")}

    assert len(sizes) == 5
    assert max(sizes.values()) < 400_000


def test_an_earlier_demo_is_replaced_and_the_new_one_explained(
    shown: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "save_comparison", lambda *_, **__: [], raising=False)
    (shown / "left.txt").write_text("from before")
    main(["demo", "-o", str(shown), "--json"])

    printed = capsys.readouterr()
    assert json.loads(printed.out)["policies"].keys() == summaries(shown).keys()
    assert not (shown / "left.txt").exists()
    assert "ran up to 41 requests at once, contiguous 5" in printed.err
    assert f"Look at {shown / 'comparison.png'}" in printed.err


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "compare.csv").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "-o", str(tmp_path)])

    assert stopped.value.code == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert (tmp_path / "compare.csv").read_text() == "mine"


def comparison(**rows: dict[str, Any]) -> Comparison:
    usual = {"completed": 9, "rejected": 0, "request_throughput": 1.0}
    usual |= {"running_max": 4, "median_ttft_ms": 10.0, "prefix_cache_hit_rate": 0.0}
    shares = {"reserved": 0.1, "internal": 0.2, "external": 0.0}
    return Comparison({name: Result({}, usual | shares | row, {}, {}) for name, row in rows.items()})


def test_remarks_follow_from_the_numbers() -> None:
    said = sentences(
        comparison(
            few={"running_max": 2, "external": 0.5, "median_ttft_ms": 2500.0},
            many={"running_max": 9, "prefix_cache_hit_rate": 0.25},
        ).summary
    )

    assert said == [
        "many ran up to 9 requests at once, few 2: with few, 50% of the memory was free in pieces too small to "
        "give away; with many, 0%.",
        "many gave the first token soonest, after 10 ms in the median against 2.50 s with few; 25% of its prompt "
        "tokens were in the cache.",
        "All served the same 1 requests/s.",
    ]


def test_of_equal_numbers_only_the_throughput_is_told() -> None:
    assert sentences(comparison(one={"median_ttft_ms": None}, two={}).summary) == [
        "All served the same 1 requests/s."
    ]
