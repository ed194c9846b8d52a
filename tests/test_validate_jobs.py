"""Measures are called once each, quick ones first, and one that fails says so without stopping the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvsim.cli import validate_jobs
from kvsim.cli.validate_jobs import run_checks
from kvsim.cli.validate_measures import call_measure
from kvsim.errors import InputError
from kvsim.validate_table import Check


def check(name: str, measure: str, figure: str, published: Any = 1, **parameters: Any) -> Check:
    return Check(
        id=name, kind="E", what=name, source="s", short="s", published=published, measure=measure, figure=figure,
        parameters=parameters,
    )  # fmt: skip


WASTE = {"reserved": 2048, "used": 10}


def test_rows_of_the_same_call_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str, parameters: dict[str, Any], traces: Path) -> Any:
        calls.append(name)
        return call_measure(name, parameters, traces)

    monkeypatch.setattr(validate_jobs, "call_measure", counted)
    rows = run_checks(
        [check("A", "reservation", "fit", 7, **WASTE), check("B", "reservation", "unused", 2038, **WASTE)],
        Path(),
        1,
    )

    assert [row.verdict for row in rows] == ["exact", "exact"]
    assert calls == ["reservation"]


def test_rows_come_in_the_order_of_the_table_and_quick_measures_run_first() -> None:
    told: list[tuple[int, int, str]] = []
    slow = check("A", "workload_facts", "requests", 50, workload="alpaca", requests=50)
    quick = check("B", "reservation", "fit", 7, **WASTE)

    rows = run_checks([slow, quick], Path(), 1, lambda *step: told.append(step))

    assert [row.check.id for row in rows] == ["A", "B"]
    assert told == [(1, 2, "reservation"), (2, 2, "workload facts")]


def test_workers_find_what_one_process_finds() -> None:
    checks = [
        check(str(size), "workload_facts", "requests", size, workload="alpaca", requests=size)
        for size in (5, 6, 7)
    ]

    assert run_checks(checks, Path(), 2) == run_checks(checks, Path(), 1)


def test_a_trace_that_is_not_there_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    trace = "mooncake/conversation_trace.jsonl"
    (row,) = run_checks([check("A", "trace_facts", "requests", trace=trace)], tmp_path, 1)

    assert row.verdict == "needs trace"
    assert row.is_fine
    assert row.note == f"needs {trace} in {tmp_path}; `kvsim trace fetch mooncake-conversation` downloads it"


def test_a_trace_is_found_where_a_download_puts_it(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"arrival_s": 0, "prompt_len": 3, "output_len": 2}\n')
    (row,) = run_checks([check("A", "trace_facts", "prompt_total", 3, trace="folder/t.jsonl")], tmp_path, 1)

    assert row.verdict == "exact"


def test_what_a_measure_cannot_do_is_a_failed_row_beside_the_others() -> None:
    rows = run_checks(
        [
            check("A", "kv_bytes", "bytes", model="no-such-model"),
            check("B", "kv_bytes", "bytes", model="opt-13b", gpus=0),
            check("C", "reservation", "unsaid", **WASTE),
            check("D", "reservation", "fit", 7, **WASTE),
        ],
        Path(),
        1,
    )

    assert [row.verdict for row in rows] == ["FAILED", "FAILED", "FAILED", "exact"]
    assert rows[0].note.startswith("unknown model 'no-such-model'")
    assert rows[2].note == "reservation gives no 'unsaid', but fit, external, unused, wasted"


def test_a_defect_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(validate_jobs, "call_measure", broken)
    (row,) = run_checks([check("A", "reservation", "fit", **WASTE)], Path(), 1)

    assert row.note.startswith("ZeroDivisionError: by nothing (test_validate_jobs.py:")
    assert not row.is_fine


def test_a_missing_trace_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs x"):
        call_measure("trace_facts", {"trace": "x.csv"}, tmp_path)
