"""Runs the measures that rows ask for, each once, several at a time."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.cli.validate_measures import HOMES, ORDER, Job, TraceMissingError, call_measure
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.validate_memory import Figures
    from kvsim.validate_table import Check
    from kvsim.validate_verdict import Row

Progress = Callable[[int, int, str], None]
"""Told measures done, measures in all, and what is being done."""
Outcome = tuple[str, "Figures", str]
"""Verdict of what kept it from running, or nothing; its figures; why it did not run."""
AT_ONCE = HOMES["kvsim.validate_memory"]
"""Measures so quick that handing them to a worker would take longer."""


def job_of(check: Check) -> Job:
    """Return the call that a check needs."""
    return Job(check.measure, json.dumps(check.parameters, sort_keys=True))


def run_checks(
    checks: Sequence[Check], traces: Path, jobs: int | None = None, progress: Progress | None = None
) -> list[Row]:
    """Run what the checks need, quick measures first, and return a row each, in their order."""
    wanted = dict.fromkeys(job_of(check) for check in checks if check.measure)
    ordered = sorted(wanted, key=lambda job: ORDER.index(job.measure))
    found: dict[Job, Outcome] = {}
    for job, outcome in _outcomes(ordered, traces, jobs or os.cpu_count() or 1):
        found[job] = outcome
        if progress is not None:
            progress(len(found), len(ordered), job.measure.replace("_", " "))
    return [_row(check, found) for check in checks]


def _outcomes(ordered: Sequence[Job], traces: Path, jobs: int) -> Iterator[tuple[Job, Outcome]]:
    quick = [job for job in ordered if job.measure in AT_ONCE]
    rest = [job for job in ordered if job.measure not in AT_ONCE]
    yield from (_run(job, traces) for job in quick)
    if jobs == 1 or len(rest) < 2:
        yield from (_run(job, traces) for job in rest)
        return
    import joblib

    parallel = joblib.Parallel(n_jobs=min(jobs, len(rest)), return_as="generator_unordered")
    yield from parallel(joblib.delayed(_run)(job, traces) for job in rest)


def _run(job: Job, traces: Path) -> tuple[Job, Outcome]:
    from kvsim.validate_verdict import FAILED, NOT_THERE

    try:
        return job, ("", call_measure(job.measure, json.loads(job.parameters), traces), "")
    except TraceMissingError as error:
        return job, (NOT_THERE, {}, str(error))
    except InputError as error:
        return job, (FAILED, {}, str(error))
    except Exception as error:  # one broken measure must not hide what the others say
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return job, (FAILED, {}, f"{type(error).__name__}: {error} ({where})")


def _row(check: Check, found: dict[Job, Outcome]) -> Row:
    from kvsim.validate_verdict import FAILED, Row, judge, unchecked

    if not check.measure:
        return unchecked(check)
    verdict, figures, reason = found[job_of(check)]
    if verdict:
        return Row(check, None, verdict, reason)
    if check.figure not in figures:
        return Row(
            check, None, FAILED, f"{check.measure} gives no {check.figure!r}, but {', '.join(figures)}"
        )
    return judge(check, figures[check.figure])
