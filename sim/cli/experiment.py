"""`kvsim compare experiment.toml`: run the cells that are missing, and print a row a cell."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from kvsim.cli.flags import OUTPUT

if TYPE_CHECKING:
    from kvsim.experiment_run import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOptions:
    """Who runs an experiment's cells, and how many there may be."""

    backend: Literal["loky", "ray", "dask"] = "loky"
    """Where an experiment's cells run: processes of this machine, or a ray or dask cluster."""
    scheduler_address: str | None = None
    """Address of the ray or dask cluster; RAY_ADDRESS or DASK_SCHEDULER_ADDRESS, or else --jobs local workers."""
    dry_run: bool = False
    """List an experiment's cells and which of them are finished; run nothing."""
    max_cells: int | None = None
    """Most cells an experiment may come to; as its file says, or 10,000, unless given."""


CELLS_ON_THIS_MACHINE = CellOptions()

Cells = Annotated[CellOptions, Parameter(name="*", group=OUTPUT, negative=())]


def refuse(given: Mapping[str, tuple[object, object]], why: str) -> None:
    """Raise InputError for the first value that is not its default; both are given by name."""
    from kvsim.errors import InputError

    for name, (value, default) in given.items():
        if value != default:
            raise InputError(f"--{name.replace('_', '-')} {why}")


def run_file(
    file: Path,
    options: CellOptions,
    output: Path | None,
    jobs: int | None,
    *,
    as_json: bool,
    as_markdown: bool,
) -> None:
    """Run an experiment's missing cells, print its table, and exit with 1 if a cell failed."""
    from kvsim.cell_backends import Workers
    from kvsim.experiment_file import read_experiment
    from kvsim.experiment_run import Plan

    experiment = read_experiment(file)
    if options.max_cells is not None:
        experiment = dataclasses.replace(experiment, max_cells=options.max_cells)
    folder = output or Path("".join(c if c.isalnum() or c in "-_=.," else "_" for c in experiment.name))
    # A process that has loaded a user's policy does not see later edits; new ones do.
    workers = Workers(options.backend, jobs, options.scheduler_address, fresh=True)
    plan = Plan(experiment, folder)
    if plan.starts_over:
        print(
            f"the cells in {folder} were computed by other code of kvsim and are run again", file=sys.stderr
        )
    if options.dry_run:
        _list(plan, as_json)
        return
    # Batch systems end a job so; it is as good a reason to stop in order as Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        plan.run(workers, progress=True)
    except KeyboardInterrupt:
        kept = f"{len(plan.outcomes)} of {len(plan.tasks)} cells are kept in {folder}"
        print(f"kvsim: {kept}; the same command goes on from there", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    _report(plan, folder, as_json, as_markdown)


def _list(plan: Plan, as_json: bool) -> None:
    from kvsim.cli.print_json import print_json

    rows = [
        {"cell": cell.name, "key": task.key, "finished": task.key in plan.outcomes}
        for cell, task in zip(plan.cells, plan.tasks, strict=True)
    ]
    if as_json:
        print_json({"experiment": plan.experiment.name, "cells": rows})
        return
    for row in rows:
        print(f"{'finished' if row['finished'] else 'to run':<8}  {row['key']:.8}  {row['cell']}")
    print(f"{len(rows)} cells, {len(plan.outcomes)} finished, {len(plan.to_run)} to run", file=sys.stderr)


def _report(plan: Plan, folder: Path, as_json: bool, as_markdown: bool) -> None:
    from kvsim.cli.experiment_table import markdown, print_table, remarks
    from kvsim.cli.print_json import print_json

    frame = plan.frame()
    if as_json:
        rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
        print_json({"experiment": plan.experiment.name, "cells": rows})
    elif as_markdown:
        print(markdown(plan, frame))
    else:
        print_table(plan, frame)
    for remark in remarks(plan, frame):
        print(remark, file=sys.stderr)
    print(f"Written to {folder}: cells.csv, cells.parquet, a file a finished cell", file=sys.stderr)
    if (frame["status"] != "ok").any():
        sys.exit(1)
