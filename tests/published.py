"""Rows of `published.toml` for the tests: run one by one, each measure only once in a process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from kvsim.cli.validate_jobs import job_of, run_checks
from kvsim.cli.validate_measures import HOMES
from kvsim.validate_table import Check, all_checks
from kvsim.validate_verdict import KNOWN_MISS, NOT_THERE, Row

TRACES = Path(__file__).resolve().parents[2] / "shared" / "traces"


def rows_of(*measures: str) -> dict[str, Check]:
    """Return the rows of these measures by id."""
    return {check.id: check for check in all_checks() if check.measure in measures}


def rows_at(home: str) -> dict[str, Check]:
    """Return the rows of all measures of a module by id."""
    return rows_of(*HOMES[home])


def outcome(check: Check) -> Row:
    """Run a row and return what it came to."""
    with_same_job = tuple(
        other.id for other in all_checks() if other.measure and job_of(other) == job_of(check)
    )
    return _outcomes(with_same_job)[check.id]


def assert_as_documented(check: Check) -> None:
    """Hold a row to what the table says: near enough, or missed where and because it says so."""
    row = outcome(check)
    said = f"{check.id}: {row.ours} against {check.published}: {row.verdict} {row.note}"
    assert row.is_fine, said
    assert row.verdict != NOT_THERE, said
    assert (row.verdict == KNOWN_MISS) == (check.miss is not None), said


@cache
def _outcomes(ids: tuple[str, ...]) -> dict[str, Row]:
    by_id = {check.id: check for check in all_checks()}
    return {row.check.id: row for row in run_checks([by_id[name] for name in ids], TRACES, jobs=1)}
