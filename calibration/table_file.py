"""Published tables as frames: CSV, gzipped CSV or parquet, checked cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kvsim.errors import InputError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""Kinds of table, in the order in which one is taken when several hold the same."""


def read_table(
    path: Path,
    *,
    counts: Sequence[str] = (),
    times: Sequence[str] = (),
    words: Sequence[str] = (),
    keep: Callable[[pd.DataFrame], pd.Series] | None = None,
) -> pd.DataFrame:
    """Read the named columns: whole numbers ≥ 0, times > 0 and text.

    The first wrong cell is an InputError. Rows that `keep` is false for are left out before their cells are looked
    at; the others keep their row number.
    """
    frame = _read(path)
    wanted = [*words, *counts, *times]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise InputError(
            f"{path}: column {missing[0]!r} is missing; it has {', '.join(map(str, frame.columns))}"
        )
    frame = frame[wanted] if keep is None else frame.loc[keep(frame), wanted]
    frame = frame.copy()
    if frame.empty:
        raise InputError(f"{path}: the table has no rows")
    for name in counts:
        values = _numbers(path, frame[name])
        _refuse(path, frame[name], (values < 0) | (values % 1 != 0), "a whole number ≥ 0")
        frame[name] = values.astype(np.int64)
    for name in times:
        frame[name] = _numbers(path, frame[name])
        _refuse(path, frame[name], frame[name] <= 0, "a time > 0")
    return frame


def optional_columns(path: Path, names: Sequence[str]) -> list[str]:
    """Return those of the names that the table has as columns."""
    return [name for name in names if name in _read(path, header_only=True).columns]


def find_tables(folder: Path, stem: str) -> list[Path]:
    """Return the tables below a folder whose name ends in `stem`, sorted.

    Of those that differ in the suffix alone the first of SUFFIXES counts.
    """
    found: dict[str, Path] = {}
    for suffix in reversed(SUFFIXES):
        for path in sorted(folder.rglob(f"*{stem}{suffix}")):
            found[str(path).removesuffix(suffix)] = path
    return [found[name] for name in sorted(found)]


def _read(path: Path, header_only: bool = False) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, nrows=0 if header_only else None, low_memory=False)
    except (ValueError, OSError, EOFError) as error:
        # pandas' and pyarrow's own errors are ValueErrors; their first line says what is wrong.
        raise InputError(f"{path}: not a table: {(str(error).splitlines() or ['unreadable'])[0]}") from error


def _numbers(path: Path, column: pd.Series) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce").astype(float)
    _refuse(path, column, values.isna() | values.isin([np.inf, -np.inf]), "a finite number")
    return values


def _refuse(path: Path, column: pd.Series, wrong: pd.Series, allowed: str) -> None:
    if wrong.any():
        place = int(np.argmax(wrong.to_numpy()))
        row = int(column.index[place]) + 1
        raise InputError(f"{path}: row {row}: {column.name} must be {allowed}, got {column.iloc[place]}")
