"""A folder that a sweep wrote: one tidy table of cells, some of which may have failed or never run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kvsim.errors import InputError
from kvsim.reports.facts import Origin
from kvsim.reports.headline import setting_text
from kvsim.reports.metrics import is_metric

if TYPE_CHECKING:
    from pandas import DataFrame, Series

EXPERIMENT = "experiment.toml"
TABLES = ("cells.parquet", "cells.csv")
OK = "ok"
"""Status of a cell that has its numbers."""
MISSING = "missing"
"""Status of a cell that has not run."""
_BESIDE = ("status", "error", "cell", "key")
"""Columns that are neither a parameter nor a metric."""
_SHOWN = 5
"""Missing cells that are named."""
_LONGEST = 300
"""Characters of an error that are shown."""
_AGAIN = "run the same command again to go on"


class Sweep(NamedTuple):
    """One sweep."""

    name: str
    cells: DataFrame
    """A row a cell that is there."""
    parameters: tuple[str, ...]
    """Columns that were varied, seeds left out."""
    missing: tuple[str, ...]
    """What is not there, a sentence each."""
    experiment: str
    """Text of the experiment; empty when the folder has none."""
    origins: tuple[Origin, ...]
    """What the cells rest on, those that say so."""


def is_sweep(folder: Path) -> bool:
    """Tell whether a sweep wrote, or began to write, this folder."""
    return any((folder / name).is_file() for name in (EXPERIMENT, *TABLES))


def read_sweep(folder: Path) -> Sweep:
    """Read the table of a sweep; a killed one may have no table, or one that lags behind its cells."""
    import pandas as pd

    name, text = folder.resolve().name, _text(folder)
    path = next((folder / table for table in TABLES if (folder / table).is_file()), None)
    if path is None:
        said = f"{name}: no cell is known to have finished: {folder} has no {TABLES[-1]}; {_AGAIN}"
        return Sweep(name, pd.DataFrame(), (), (said,), text, ())
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a table of cells: {error}") from error
    there = _is_there(table)
    parameters = _parameters(table)
    missing = [*_missing(table, there, parameters, name), *_lagging(folder, table[~there], name)]
    origins = tuple(_origins(folder, table[there]))
    return Sweep(name, table[there].reset_index(drop=True), parameters, tuple(missing), text, origins)


def _text(folder: Path) -> str:
    path = folder / EXPERIMENT
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def _is_there(table: DataFrame) -> Series[bool]:
    if "status" in table.columns:
        return (table["status"] == OK).fillna(False).astype(bool)
    numbers = [column for column in table.columns if is_metric(str(column))]
    return table[numbers].notna().any(axis=1)


def _parameters(table: DataFrame) -> tuple[str, ...]:
    """Return what varies among the columns before the first metric."""
    given = itertools.takewhile(
        lambda column: not is_metric(column) and column not in _BESIDE, map(str, table.columns)
    )
    return tuple(name for name in given if name != "seed" and table[name].nunique() > 1)


def _missing(table: DataFrame, there: Series[bool], parameters: tuple[str, ...], name: str) -> list[str]:
    gone = table[~there]
    if not len(gone):
        return []
    failed = int((gone["status"] == "failed").sum()) if "status" in gone.columns else 0
    parts = [(failed, "failed"), (len(gone) - failed, "not run yet")]
    counts = ", ".join(f"{count:,} {word}" for count, word in parts if count)
    said = [
        f"{name}: {len(gone):,} of {len(table):,} cells are missing ({counts}); "
        f"what follows shows the others; {_AGAIN}"
    ]
    said += [f"{name}: {_one(row, parameters)}" for _, row in gone.head(_SHOWN).iterrows()]
    return [*said, f"{name}: and {len(gone) - _SHOWN:,} more"] if len(gone) > _SHOWN else said


def _one(row: Series, parameters: tuple[str, ...]) -> str:
    import pandas as pd

    named = [column for column in (*parameters, "seed") if column in row and not pd.isna(row[column])]
    where = ", ".join(f"{column} = {setting_text(row[column])}" for column in named) or str(
        row.get("cell", "a cell")
    )
    words = [row[column] for column in ("status", "error") if column in row and not pd.isna(row[column])]
    why = " ".join(": ".join(map(str, words)).split())
    return f"{where}: {why[:_LONGEST] if why not in ('', MISSING) else 'not run yet'}"


def _lagging(folder: Path, absent: DataFrame, name: str) -> list[str]:
    """Say how many cells have finished since the table was written; files of other settings are kept there too."""
    keys = absent["key"].dropna() if "key" in absent.columns else ()
    done = sum((folder / "cells" / f"{key}.json").is_file() for key in keys)
    return [f"{name}: {done:,} cells have finished since the table was written; {_AGAIN}"] if done else []


def _origins(folder: Path, cells: DataFrame) -> Iterator[Origin]:
    """Read what each cell's file says of it; one that cannot be read says nothing."""
    if "key" not in cells.columns:
        return
    names = cells["cell"] if "cell" in cells.columns else cells["key"]
    shares = cells["hull_share"] if "hull_share" in cells.columns else [None] * len(cells)
    for key, name, inside in zip(cells["key"], names, shares, strict=True):
        try:
            record = json.loads((folder / "cells" / f"{key}.json").read_bytes())
            config = record["outcome"]["run"] | {"settings": record["inputs"]["settings"]}
            yield Origin(str(name), config, record["inputs"]["versions"], inside, "")
        except (OSError, ValueError, KeyError, TypeError):
            continue
