"""Runs an experiment: what finished before is kept, the rest goes to workers, and every outcome is saved at once."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from kvsim.cell_backends import Workers
from kvsim.cell_progress import Progress
from kvsim.cell_run import FAILED, OUT_OF_REACH, failure, run_task
from kvsim.cell_shipping import packed
from kvsim.cell_store import CellStore, table
from kvsim.cells import Json, Task, TaskMaker
from kvsim.experiment_file import write_text
from kvsim.experiment_grid import Cell

if TYPE_CHECKING:
    import pandas as pd

    from kvsim.experiment import Experiment
    from kvsim.request import Workload

Found = tuple[Task, Json]
TABLE_SHARE = 20
"""The table in the folder is brought up to date so seldom that it takes a twentieth of the time."""


class Plan:
    """An experiment's cells, their tasks, and what is known of them."""

    def __init__(self, experiment: Experiment, output: Path | str | None) -> None:
        """Expand the experiment, check and hash every cell, and look for finished ones in the folder.

        Nothing is written; InputError for what cannot work in any of the cells.
        """
        self.experiment = experiment
        self.cells: list[Cell] = experiment.expanded()
        self.outcomes: dict[str, Json] = {}
        """Outcomes by key, in no order."""
        self._store = None if output is None else CellStore(Path(output))
        maker = TaskMaker(experiment.folder, experiment.source)
        self.tasks: list[Task] = [maker.make(cell) for cell in self.cells]
        if self._store is not None:
            found = {task.key: self._store.load(task) for task in self.tasks}
            self.outcomes = {key: record for key, record in found.items() if record is not None}

    @property
    def starts_over(self) -> bool:
        """Whether nothing in the folder is of use because another version of kvsim's code computed it."""
        return self._store is not None and not self.outcomes and self._store.outdated(self.tasks)

    @property
    def to_run(self) -> list[Task]:
        """What has no outcome yet, cells that share a trace next to each other."""
        waiting = {task.key: task for task in self.tasks if task.key not in self.outcomes}
        traces: dict[str, int] = {}
        for task in waiting.values():
            traces.setdefault(repr(task.trace), len(traces))
        return sorted(waiting.values(), key=lambda task: traces[repr(task.trace)])

    def run(self, workers: Workers, progress: bool) -> None:
        """Run what is missing; whatever stops it, the folder holds what had finished, and a table of that."""
        if self._store is not None:
            folder = self._store.make()
            # A file that was read from there may have been edited and commented by hand.
            if Path(self.experiment.source).resolve() != (folder / "experiment.toml").resolve():
                self._store.write_experiment(write_text(self.experiment, folder))
        self._write_table()
        try:
            with Progress(len(self.tasks), len(self.outcomes), shown=progress) as line:
                self._run(workers, line)
        finally:
            self._write_table()

    def frame(self) -> pd.DataFrame:
        """Return the table as far as it is known."""
        return table(self.cells, self.tasks, self.outcomes)

    def _run(self, workers: Workers, line: Progress) -> None:
        due = 0.0
        with _closed_quietly(_outcomes(self.to_run, workers, line)) as outcomes:
            for task, outcome in outcomes:
                self.outcomes[task.key] = outcome
                if self._store is not None and outcome["status"] != FAILED:
                    self._store.save(task, outcome)
                begun = time.monotonic()
                if begun >= due:
                    self._write_table()
                    due = time.monotonic() + TABLE_SHARE * (time.monotonic() - begun)
                line.finished(task.name, outcome["status"] == FAILED, outcome["notes"])

    def _write_table(self) -> None:
        if self._store is not None:
            self._store.write_table(self.frame())


@contextmanager
def _closed_quietly(outcomes: Generator[Found, None, None]) -> Iterator[Iterator[Found]]:
    """Close a generator without joblib's warning about tasks it was stopped from finishing."""
    try:
        yield outcomes
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes.close()


def _outcomes(tasks: Sequence[Task], workers: Workers, line: Progress) -> Generator[Found, None, None]:
    """Run tasks here if one worker is asked for and no code of the user's is among them, else in processes."""
    if not tasks:
        return
    own = any(task.inputs["policy_source"] is not None for task in tasks)
    if workers.backend == "loky" and workers.jobs == 1 and not own:
        for task in tasks:
            line.started(task.name)
            yield task, run_task(task)[1]
        return
    with workers:
        yield from _in_workers(tasks, workers, line)


def _in_workers(tasks: Sequence[Task], workers: Workers, line: Progress) -> Iterator[Found]:
    """Yield outcomes as they come; send files where they are out of reach, and tasks of dead workers once more."""
    waiting = {task.key: task for task in tasks}
    missing: dict[str, list[str]] = {}
    while waiting:
        under_way: dict[str, Task] = {}
        order = sorted(waiting.values(), key=lambda task: task.key not in missing)
        try:
            for key, outcome in workers.map(run_task, _fed(order, missing, workers, under_way, line)):
                sent = under_way.pop(key)
                if outcome["status"] != OUT_OF_REACH:
                    del waiting[key]
                    yield sent, outcome
                elif sent.contents:
                    yield waiting.pop(key), _changed(sent, outcome["missing"])
                else:
                    missing[key] = outcome["missing"]
        except workers.deaths:
            # Who of those under way killed its worker is not known; alone, each can only kill its own.
            for key, task in list(under_way.items()):
                del waiting[key]
                yield task, _alone(task, workers)


def _fed(
    tasks: Sequence[Task],
    missing: Mapping[str, list[str]],
    workers: Workers,
    under_way: dict[str, Task],
    line: Progress,
) -> Iterator[Task]:
    """Hand tasks out one by one; the first for every worker bring the files along that are out of reach."""
    for place, task in enumerate(tasks):
        if task.key in missing and place < (workers.jobs or 1):
            contents = {what: packed(task.files[what]) for what in missing[task.key]}
            task = replace(task, contents=contents)
        under_way[task.key] = task
        line.started(task.name)
        yield task


def _alone(task: Task, workers: Workers) -> Json:
    try:
        [(_, outcome)] = workers.map(run_task, [task])
    except workers.deaths:
        return failure("its worker process died, and died again when it ran alone (killed, or out of memory)")
    return outcome if outcome["status"] != OUT_OF_REACH else _changed(task, outcome["missing"])


def _changed(task: Task, missing: Sequence[str]) -> Json:
    named = ", ".join(f"{what} {task.files[what].path!r}" for what in missing)
    return failure(f"{named} changed since the experiment was planned; start it again")


@contextmanager
def trace_as_file(trace: Workload | Path | str | None, output: Path | str | None) -> Iterator[dict[str, str]]:
    """Yield the settings that name a trace; one that is an object is written to the output folder, or for now."""
    if trace is None or isinstance(trace, str | Path):
        yield {} if trace is None else {"trace": str(trace)}
        return
    write_trace = importlib.import_module("kvsim.traces.write").write_trace
    with TemporaryDirectory(prefix="kvsim-") as temporary:
        folder = Path(temporary) if output is None else CellStore(Path(output)).make()
        write_trace(trace, folder / "trace.parquet")
        yield {"trace": str(folder / "trace.parquet")}
