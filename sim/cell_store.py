"""An experiment's folder: a checked file a finished cell, and the table of all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.cells import Json, Task, key_of
from kvsim.errors import InputError
from kvsim.experiment_grid import Cell, as_text
from kvsim.experiment_values import Value

if TYPE_CHECKING:
    import pandas as pd

FORMAT, VERSION = "kvsim-cell", 1
MISSING = "missing"
"""Status of a cell that has not run yet."""


class CellStore:
    """Reads and writes `cells/<key>.json`, `cells.csv` and `cells.parquet` in one folder."""

    def __init__(self, folder: Path) -> None:
        """Take a new or empty folder, or one that an experiment wrote."""
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise InputError(f"output {str(folder)!r} exists and is not a folder")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "cells").is_dir():
            raise InputError(
                f"output folder {str(folder)!r} exists and is not an experiment's; name a new one"
            )

    def make(self) -> Path:
        """Make the folder."""
        try:
            (self.folder / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"output folder {str(self.folder)!r} cannot be written: {error.strerror}"
            ) from error
        return self.folder

    def write_experiment(self, text: str) -> None:
        """Write the experiment's normalised file."""
        self._write("experiment.toml", lambda path: path.write_text(text, encoding="utf-8"))

    def load(self, task: Task) -> Json | None:
        """Return the record of a cell that finished, if its file is whole and says what this task depends on."""
        try:
            record = json.loads((self.folder / "cells" / f"{task.key}.json").read_bytes())
            checksum = record.pop("checksum")
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        sound = checksum == _checksum(record) and (record["format"], record["version"]) == (FORMAT, VERSION)
        if not sound or record["inputs"] != task.inputs or key_of(record["inputs"]) != task.key:
            return None
        found: Json = record["outcome"]
        return found

    def outdated(self, tasks: Sequence[Task]) -> bool:
        """Tell whether the folder holds cells that other code of kvsim computed."""
        current = {task.inputs["code"] for task in tasks}
        for path in sorted((self.folder / "cells").glob("*.json")):
            try:
                if json.loads(path.read_bytes())["inputs"]["code"] not in current:
                    return True
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return False

    def save(self, task: Task, outcome: Json) -> None:
        """Write a finished cell under a temporary name, then rename."""
        record = {
            "format": FORMAT,
            "version": VERSION,
            "key": task.key,
            "inputs": task.inputs,
            "outcome": outcome,
        }
        text = json.dumps(record | {"checksum": _checksum(record)}, indent=1)
        self._write(f"cells/{task.key}.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))

    def write_table(self, frame: pd.DataFrame) -> None:
        """Write the table as CSV and Parquet; the same frame gives the same bytes."""
        self._write("cells.csv", lambda path: frame.to_csv(path, index=False))
        self._write("cells.parquet", lambda path: frame.to_parquet(path, index=False))

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        target = self.folder / name
        working = target.with_name(f".{target.name}.part")
        try:
            write(working)
            working.replace(target)
        except OSError as error:
            raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
        finally:
            working.unlink(missing_ok=True)


def table(cells: Sequence[Cell], tasks: Sequence[Task], outcomes: Mapping[str, Json]) -> pd.DataFrame:
    """Return a row a cell: what is varied, the summary's metrics, status, error, name and key."""
    import pandas as pd

    found = [outcomes.get(task.key, {"status": MISSING, "error": None, "summary": {}}) for task in tasks]
    columns: dict[str, pd.Series[Any]] = {}
    for name in cells[0].varied if cells else ():
        columns[name] = _column([cell.varied[name] for cell in cells])
    for name in dict.fromkeys(name for outcome in found for name in outcome["summary"]):
        numbers = [outcome["summary"].get(name) for outcome in found]
        whole = all(isinstance(number, int) for number in numbers)
        columns[name] = pd.Series(numbers, dtype="int64" if whole else "float64")
    last = {
        "status": [outcome["status"] for outcome in found],
        "error": [outcome["error"] for outcome in found],
        "cell": [cell.name for cell in cells],
        "key": [task.key for task in tasks],
    }
    return pd.DataFrame(columns | {name: pd.Series(texts, dtype="string") for name, texts in last.items()})


def _column(values: list[Value]) -> pd.Series[Any]:
    """Return a column of one type: truth, whole numbers, numbers, or else text; None is missing in any."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if None in values else "bool")
    if kinds == {int}:
        return pd.Series(values, dtype="Int64" if None in values else "int64")
    if kinds and kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    return pd.Series([None if value is None else as_text(value) for value in values], dtype="string")


def _checksum(record: Json) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
