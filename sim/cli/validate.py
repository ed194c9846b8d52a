"""`kvsim validate`: rerun what was published and measured elsewhere, and say how far kvsim is from it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from kvsim.cli import COMMANDS

if TYPE_CHECKING:
    from kvsim.reports.validation import Line
    from kvsim.validate_verdict import Row

Class = Literal["E", "T", "physics"]
TRACES = Path("../shared/traces")

RUN = """Replay what a real server was asked, and say how far kvsim is from what it measured.

Record a run with `vllm bench serve --save-result --save-detailed …`: its result file is --measured, and TRACE
unless the workload has content ids; keep the server's log for --server-log. Or a folder with requests.jsonl
(a row a request, the engine's time stamps), timeseries.csv and meta.json. Settings that no flag gives come from
--config, the log, the record, and the profile.

Exits with 0 when all differences are within --within, with 1 when one is not."""

validate = App(name="validate", help=COMMANDS["validate"])
validate.command("kvsim.cli.validate_run:run", name="run", help=RUN)


@validate.default
def validate_all(
    *,
    only: str = "",
    kind: Annotated[Class | None, Parameter(name="--class")] = None,
    traces: Path = TRACES,
    everything: Annotated[bool, Parameter(name="--all", negative=())] = False,
    jobs: Annotated[int | None, Parameter(name=("--jobs", "-j"))] = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Rerun every published and measured check, and say how far kvsim is from each.

    Parameters
    ----------
    only
        Rows of these ids, with commas: P50 for all its lines, P50/1000 for one.
    kind
        Rows of one class.
    traces
        Folder of public traces, where `kvsim trace fetch NAME --output` puts them.
    everything
        Run rows that take long, too.
    jobs
        Checks at once; all CPUs unless given.
    output
        New folder for validation.html and validation.csv.
    json
        Print one JSON object instead of a table.
    """
    rows = _rows(only, kind, everything, traces, jobs, output)
    _report(rows, output, json)
    if not all(row.is_fine for row in rows):
        sys.exit(1)


def _rows(
    only: str, kind: Class | None, everything: bool, traces: Path, jobs: int | None, output: Path | None
) -> list[Row]:
    """Check what was asked for, and run it."""
    from kvsim.cli.search_progress import shown_progress
    from kvsim.cli.validate_jobs import run_checks
    from kvsim.errors import InputError
    from kvsim.result import new_folder
    from kvsim.validate_table import all_checks, chosen_checks

    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    if output is not None:
        new_folder(output)
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    checks = chosen_checks(all_checks(), wanted, kind, everything)
    if not checks:
        raise InputError(f"--only {only}: none of these rows is of class {kind}")
    with shown_progress() as progress:
        return run_checks(checks, traces, jobs, progress)


def _report(rows: Sequence[Row], output: Path | None, as_json: bool) -> None:
    from kvsim.cli.print_json import print_json
    from kvsim.cli.validate_text import print_rows
    from kvsim.validate_report import counts, record, summary

    if output is not None:
        _save(rows, output)
    if as_json:
        fine = all(row.is_fine for row in rows)
        print_json(
            {
                "fine": fine,
                "counts": counts(rows),
                "summary": summary(rows),
                "checks": list(map(record, rows)),
            }
        )
    else:
        print_rows(rows)
    if output is not None:
        print(f"Written to {output}: validation.html, validation.csv", file=sys.stderr)


def _save(rows: Sequence[Row], output: Path) -> None:
    import shlex

    from kvsim.reports.validation import validation_html
    from kvsim.result import environment, whole_folder
    from kvsim.validate_report import csv_text, summary

    command = shlex.join(["kvsim", *sys.argv[1:]])
    page = validation_html(list(map(_line, rows)), summary(rows), command=command, environment=environment())
    with whole_folder(output) as working:
        (working / "validation.html").write_text(page, encoding="utf-8")
        (working / "validation.csv").write_text(csv_text(rows), encoding="utf-8")


def _line(row: Row) -> Line:
    from kvsim.reports.validation import Line
    from kvsim.validate_report import difference, number, published, tolerance
    from kvsim.validate_verdict import CONTEXT, KNOWN_MISS

    check = row.check
    state = (
        "bad"
        if not row.is_fine
        else "miss"
        if row.verdict == KNOWN_MISS
        else "good"
        if row.was_checked and row.verdict != CONTEXT
        else "open"
    )
    return Line(
        check.id,
        check.what,
        check.conditions,
        check.origin,
        published(check),
        number(row.ours),
        difference(row),
        tolerance(row),
        row.verdict,
        row.note,
        state,
    )
