"""The data dictionary of reports/README.md against what runs really leave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_runs import trace

from kvsim.cli import main
from kvsim.explain import explain
from kvsim.explain_waits import REASONS
from kvsim.result import load_result

README = (Path(__file__).resolve().parents[1] / "reports" / "README.md").read_text(encoding="utf-8")
LATENCIES = ("ttft", "tpot", "itl", "e2el", "queue")
FIGURES = ("mean", "median", "std", "p50", "p90", "p95", "p99")
SMALL = {"num_gpu_blocks_override": 20, "block_size": 4, "max_model_len": 64, "cost": "linear:1,0,0"}


def section(title: str) -> list[list[str]]:
    """Return the cells of a section's first table, a row a list."""
    text = README.partition(f"\n## {title}")[2].partition("\n## ")[0]
    assert text, title
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table[0].splitlines()]
    return rows[2:]


PROFILED = {"hull_share"}
"""Keys that are only there when a measured profile prices the steps."""


def documented(title: str) -> list[str]:
    """Return the names in a table's first column; a distribution stands for all its figures."""
    names = [name for first, *_ in section(title) for name in re.findall(r"`([a-z0-9_]+)`", first)]
    found = []
    for name in names:
        kind = re.fullmatch(r"(?:mean|p99)_(ttft|tpot|itl|e2el|queue)_ms", name)
        found += [f"{figure}_{kind[1]}_ms" for figure in FIGURES] if kind else [name]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run with everything that a run can leave."""
    tmp_path = tmp_path_factory.mktemp("dictionary")
    rows = tmp_path / "rows.jsonl"
    made = [{"arrival_s": i / 4, "prompt_len": 40 + i, "output_len": 5} for i in range(12)]
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in made))
    flags = ["--cost", "linear:0.01,1e-5,0", "--max-model-len", "512", "--goodput", "ttft:1000"]
    main(["run", str(rows), *flags, "-o", str(tmp_path / "run"), "--step-log", str(tmp_path / "steps.jsonl")])
    main(["run", str(rows), *flags, "--async-scheduling", "--step-log", str(tmp_path / "async.jsonl")])
    main(["compare", str(rows), *flags, "--policies", "paged,prefix", "-o", str(tmp_path / "compare")])
    return tmp_path


def test_summary_has_exactly_the_documented_keys(folder: Path) -> None:
    summary = load_result(folder / "run").summary

    assert set(documented("Summary")) - PROFILED == {"policy", *summary}


def test_every_latency_is_documented_with_every_figure() -> None:
    names = documented("Summary")

    assert {f"{figure}_{name}_ms" for name in LATENCIES for figure in FIGURES} <= set(names)


@pytest.mark.parametrize("name", ["requests", "timeline"])
def test_frames_have_exactly_the_documented_columns_in_order(name: str, folder: Path) -> None:
    frame = getattr(load_result(folder / "run"), name)

    assert list(frame) == documented(name.capitalize())


def test_compare_csv_has_exactly_the_documented_columns(folder: Path) -> None:
    table = pd.read_csv(folder / "compare" / "compare.csv")

    assert set(table) == set(documented("Summary")) - PROFILED


def test_step_logs_have_exactly_the_documented_fields_in_order(folder: Path) -> None:
    plain, late = (
        list(json.loads((folder / name).read_text().splitlines()[0]))
        for name in ("steps.jsonl", "async.jsonl")
    )

    assert late == documented("Steps")
    assert plain == [name for name in late if name != "ts"]


def test_what_explain_gives_has_exactly_the_documented_columns_in_order() -> None:
    explanation = explain(trace((0, 50, 9), (0, 20, 30)), "prefix", **SMALL)

    for name, frame in (
        ("Waits", explanation.waits_frame),
        ("Preemptions", explanation.preemptions_frame),
        ("Lookups", explanation.lookups_frame),
    ):
        assert list(frame) == documented(name)


def test_every_reason_to_wait_is_documented_as_it_is_printed() -> None:
    text = README.partition("\n## Waits")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([a-z ]+) \| (.*) \|$", text, re.MULTILINE))

    assert list(REASONS) == [name for name in rows if name in REASONS]


def test_every_documented_column_has_a_unit_where_its_name_tells_one() -> None:
    units: dict[str, Any] = {"_ms": "ms", "_s": "s", "_tokens": "tokens", "_bytes": "bytes"}
    wrong = []
    for title in ("Summary", "Timeline", "Requests", "Waits", "Preemptions", "Lookups"):
        for first, unit, *_ in section(title):
            for name in re.findall(r"`([a-z0-9_]+)`", first):
                wrong += [name for ending, said in units.items() if name.endswith(ending) and unit != said]
    assert not [name for name in wrong if name != "max_output_tokens_per_s"]
