"""Run the points of a search, side by side, and remember them in a folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kvsim.errors import InputError
from kvsim.search_point import Outcome, Point, Setup, measure

POINTS = "points"
"""Folder of finished runs within the output folder, a JSON file each, named by the hash of what it depends on."""
FORMAT = "kvsim-search-point"


class Store:
    """Outcomes by point: run at most once, and not at all where the folder has them.

    Each outcome is written under a temporary name and renamed as soon as its run is done, so that a search that was
    stopped goes on where it was. A file that is not whole, or of other inputs, is not there.
    """

    def __init__(self, setup: Setup, folder: Path | None = None, jobs: int = 1) -> None:
        """Remember in `folder` if given; run so many at once."""
        self.setup = setup
        self.jobs = jobs
        self.folder = folder
        self.outcomes: dict[Point, Outcome] = {}
        """Every outcome that was asked for, in that order."""
        self.runs = 0
        """Runs done now."""
        self.remembered = 0
        """Outcomes taken from the folder."""

    def fetch(self, points: Iterable[Point], done: Callable[[], None] = lambda: None) -> None:
        """Have the outcomes of these points; `done` is called after each run."""
        wanted = [point for point in dict.fromkeys(points) if point not in self.outcomes]
        found = {point: self._read(point) for point in wanted}
        missing = [point for point in wanted if found[point] is None]
        self.remembered += len(wanted) - len(missing)
        for place, outcome in self._run(missing):
            found[missing[place]] = outcome
            self._write(missing[place], outcome)
            self.runs += 1
            done()
        for point in wanted:
            outcome_or_none = found[point]
            assert outcome_or_none is not None
            self.outcomes[point] = outcome_or_none

    def _run(self, points: list[Point]) -> Iterator[tuple[int, Outcome]]:
        workers = min(self.jobs, len(points))
        if workers <= 1:
            return ((place, measure(self.setup, point)) for place, point in enumerate(points))
        import joblib

        parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")
        calls = (joblib.delayed(_placed)(place, self.setup, point) for place, point in enumerate(points))
        finished: Iterator[tuple[int, Outcome]] = parallel(calls)
        return finished

    def _path(self, point: Point) -> Path | None:
        return None if self.folder is None else self.folder / POINTS / f"{self.setup.key(point)}.json"

    def _read(self, point: Point) -> Outcome | None:
        path = self._path(point)
        if path is None or not path.is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text())  # Any: JSON
            if record["format"] != FORMAT:
                return None
            return Outcome(dict(record["figures"]), str(record["reason"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, point: Point, outcome: Outcome) -> None:
        path = self._path(point)
        if path is None:
            return
        record = {
            "format": FORMAT,
            "seed": point.seed,
            "rate": point.rate,
            "changes": dict(point.changes),
            "cost_factor": point.cost_factor,
            "figures": dict(outcome.figures),
            "reason": outcome.reason,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(record, indent=1) + "\n")


def _placed(place: int, setup: Setup, point: Point) -> tuple[int, Outcome]:
    return place, measure(setup, point)


def search_folder(folder: Path) -> Path:
    """Check that a search may write there: a new or empty folder, or one that an earlier search began."""
    from kvsim.result import new_folder

    if not (folder / POINTS).is_dir() or not folder.is_dir():
        return new_folder(folder)
    strangers = sorted(
        path.name
        for path in folder.iterdir()
        if path.name.partition(".")[0] not in (POINTS, "search", "curve", "runs")
    )
    strangers = [name for name in strangers if not (name.startswith(".") and name.endswith(".part"))]
    if strangers:
        raise InputError(f"output folder {str(folder)!r} has {strangers[0]!r} in it, which no search wrote")
    return folder


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it."""
    data = content.encode() if isinstance(content, str) else content
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
