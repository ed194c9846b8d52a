"""Published tables as frames: CSV, gzipped CSV or parquet, checked cell by cell."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kvsim.calibration.points_file import LEAST_TIME, MOST_SEQUENCES
from kvsim.errors import InputError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""Kinds of table, in the order in which one is taken when several hold the same."""
MOST_COUNT = 1 << 40
MOST_TIME = 1e12
"""In whatever unit a table has; a greater one is a slip."""


def read_table(
    path: Path,
    *,
    counts: Sequence[str] = (),
    batches: Sequence[str] = (),
    sizes: Sequence[str] = (),
    times: Sequence[str] = (),
    words: Sequence[str] = (),
    keep: Callable[[pd.DataFrame], pd.Series] | None = None,
) -> pd.DataFrame:
    """Read the named columns: whole numbers ≥ 0, times > 0 and text.

    Of the counts, `sizes` are at least 1, and `batches` are numbers of sequences, each of which a point will list. The
    first wrong cell is an InputError. Rows that `keep` is false for are left out before their cells are looked at; the
    others keep their row number.
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
    for name in words:
        _refuse(path, frame[name], frame[name].isna(), "there")
    for name in counts:
        most = MOST_SEQUENCES if name in batches else MOST_COUNT
        frame[name] = _counted(path, frame[name], int(name in sizes), most)
    for name in times:
        frame[name] = _numbers(path, frame[name])
        _refuse(path, frame[name], frame[name] <= LEAST_TIME, "a time > 0")
        _refuse(path, frame[name], frame[name] > MOST_TIME, f"a time of at most {MOST_TIME:g}")
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
        with warnings.catch_warnings():
            # Rows longer than the header would lose cells, or be shifted to the left if all of them are.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, nrows=0 if header_only else None, low_memory=False, index_col=False)
    except pd.errors.ParserWarning as error:
        raise InputError(f"{path}: not a table: a row has more cells than the header") from error
    except (ValueError, OSError, EOFError) as error:
        # pandas' and pyarrow's own errors are ValueErrors; their first line says what is wrong.
        raise InputError(f"{path}: not a table: {(str(error).splitlines() or ['unreadable'])[0]}") from error


def _numbers(path: Path, column: pd.Series) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce").astype(float)
    _refuse(path, column, values.isna() | values.isin([np.inf, -np.inf]), "a finite number")
    return values


def _counted(path: Path, column: pd.Series, least: int, most: int) -> pd.Series:
    values = _numbers(path, column)
    _refuse(path, column, (values < least) | (values % 1 != 0), f"a whole number ≥ {least}")
    _refuse(path, column, values > most, f"at most {most}")
    return values.astype(np.int64)


def _refuse(path: Path, column: pd.Series, wrong: pd.Series, allowed: str) -> None:
    if wrong.any():
        place = int(np.argmax(wrong.to_numpy()))
        row = int(column.index[place]) + 1
        raise InputError(f"{path}: row {row}: {column.name} must be {allowed}, got {column.iloc[place]}")
