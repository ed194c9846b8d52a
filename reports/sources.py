"""What lies in the folders that a report or plot is made from, and what is missing there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kvsim.comparison import folder_name
from kvsim.errors import InputError
from kvsim.reports.facts import Origin
from kvsim.reports.metrics import is_metric
from kvsim.reports.sweep_folder import Sweep, is_sweep, read_sweep
from kvsim.result import Result, load_result

if TYPE_CHECKING:
    from pandas import DataFrame

RUN, COMPARISON = "run.json", "compare.csv"


class Run(NamedTuple):
    """One run, under the name that tells it from the others."""

    name: str
    policy: str
    """Its name before it had to be told from others: runs of one policy are one line of a curve."""
    result: Result
    folder: Path


@dataclass
class Sources:
    """Runs and sweeps in the order in which they were named."""

    runs: list[Run] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """What ought to be there and is not, a sentence each."""

    def frame(self, name: str) -> DataFrame | None:
        """Stack a frame of the runs that have it (requests, timeline, itl, memory_map), told apart by `policy`."""
        import pandas as pd

        found = [(run.name, getattr(run.result, name)) for run in self.runs]
        parts = [frame.assign(policy=label) for label, frame in found if frame is not None and len(frame)]
        return pd.concat(parts, ignore_index=True) if parts else None

    def summary(self) -> DataFrame:
        """Return a row a run: `policy`, the summary's keys, and the settings that a curve may be drawn over."""
        import pandas as pd

        rows = [{"policy": run.name, **run.result.summary, **_knobs(run.result)} for run in self.runs]
        frame = pd.DataFrame(rows)
        # None, where nothing ran, would make a column of objects.
        for column in filter(is_metric, frame.columns):
            frame[column] = pd.to_numeric(frame[column])
        return frame

    @property
    def origins(self) -> list[Origin]:
        """What the runs rest on."""
        return [
            Origin(
                run.name,
                run.result.config,
                run.result.environment,
                run.result.summary.get("hull_share"),
                str(run.folder),
            )
            for run in self.runs
        ]

    def cells(self) -> DataFrame:
        """Return a row a run or cell of a sweep, for curves."""
        import pandas as pd

        runs = self.summary().assign(policy=[run.policy for run in self.runs])
        return pd.concat([runs, *(sweep.cells for sweep in self.sweeps)], ignore_index=True)


def collect(folders: Iterable[Path]) -> Sources:
    """Read run, comparison and sweep folders; what a comparison or sweep lacks is said, not raised."""
    found = Sources()
    for folder in folders:
        _read(folder, found)
    if not found.runs and not found.sweeps:
        raise InputError(f"nothing to show: {'; '.join(found.missing) or 'no folder was named'}")
    found.runs = list(_told_apart(found.runs))
    return found


def _read(folder: Path, found: Sources) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if (folder / RUN).is_file():
        found.runs.append(_run(folder))
    elif is_sweep(folder):
        sweep = read_sweep(folder)
        found.sweeps.append(sweep)
        found.missing += sweep.missing
    elif (folder / COMPARISON).is_file():
        _read_comparison(folder, found)
    else:
        inside = sorted(path.parent for path in folder.glob(f"*/{RUN}"))
        if not inside:
            raise InputError(
                f"{folder}: not a folder of kvsim: no {RUN}, {COMPARISON}, cells.csv or cells.parquet in it"
            )
        found.runs += [_run(path)._replace(name=path.name) for path in inside]


def _read_comparison(folder: Path, found: Sources) -> None:
    import pandas as pd

    try:
        names = pd.read_csv(folder / COMPARISON, dtype={"policy": str})["policy"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder / COMPARISON}: not the table of a comparison: {error}") from error
    for name in names:
        try:
            found.runs.append(_run(folder / folder_name(name), name))
        except InputError as error:
            found.missing.append(f"{name} is missing: {error}")


def _run(folder: Path, name: str = "") -> Run:
    result = load_result(folder)
    named = name or str(result.config["policy"])
    return Run(named, named, result, folder)


def _told_apart(runs: list[Run]) -> Iterator[Run]:
    """Add as much of the folder to names that occur twice as tells them apart."""
    names = Counter(run.name for run in runs)
    seen: Counter[str] = Counter()
    for run in runs:
        if names[run.name] == 1:
            yield run
            continue
        parent = run.folder.resolve()
        place = parent.name if parent.name != folder_name(run.name) else parent.parent.name
        name = f"{run.name} ({place})"
        seen[name] += 1
        yield run._replace(name=name if seen[name] == 1 else f"{name} {seen[name]}")


def _knobs(result: Result) -> dict[str, Any]:
    """Return numeric settings, the pool's size, and the offered rate."""
    settings = result.config["settings"]
    knobs = {name: value for name, value in settings.items() if isinstance(value, int | float)}
    numbers = {name: value for name, value in knobs.items() if not isinstance(value, bool)}
    pool = result.config["pool"]
    numbers |= {"pool_tokens": pool["kv_bytes"] // pool["token_bytes"], "kv_gib": pool["kv_bytes"] / 2**30}
    arrival = result.requests["arrival_s"].to_numpy(dtype=float)
    arrival = arrival[arrival == arrival]
    span = float(arrival.max() - arrival.min()) if len(arrival) else 0.0
    return numbers | ({"arrival_rate": (len(arrival) - 1) / span} if span > 0 else {})
