"""CSV columns as numpy arrays, with the place of the first value that does not convert."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import InputError
from kvsim.request import FloatColumn
from kvsim.traces.source import Source, shown

# A pyarrow chunked array; pyarrow has no type information.
Column = Any


def read_columns(source: Source, names: tuple[str, ...]) -> dict[str, Column]:
    """Read the named columns of a CSV file as strings; raises InputError when one is missing."""
    import pyarrow as pa
    from pyarrow import csv

    wrong: list[csv.InvalidRow] = []

    def remember(row: csv.InvalidRow) -> str:
        wrong.append(row)
        return "error"

    options = csv.ConvertOptions(
        include_columns=list(names),
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=False,
    )
    reading = csv.ReadOptions(use_threads=False, block_size=1 << 20)
    try:
        with source.utf8() as stream:
            table = csv.read_csv(stream, reading, csv.ParseOptions(invalid_row_handler=remember), options)
    except KeyError as error:
        raise _missing(source, names) from error
    except pa.ArrowInvalid as error:
        if wrong:
            raise _ragged(source, wrong[0]) from error
        raise InputError(f"{source.name}: not a CSV table: {str(error).splitlines()[0]}") from error
    return {name: table.column(name) for name in names}


def numbers(source: Source, name: str, column: Column) -> NDArray[Any]:
    """Convert a column of strings to int64 where all are integers, else to float64."""
    import pyarrow as pa

    for kind in (pa.int64(), pa.float64()):
        try:
            return _flat(column.cast(kind))
        except pa.ArrowInvalid:
            continue
    raise _unconverted(source, name, column, pa.float64(), "a number")


def clock(source: Source, name: str, column: Column) -> FloatColumn:
    """Convert wall-clock time stamps with up to nanosecond digits to seconds after the earliest."""
    import pyarrow as pa

    try:
        stamps = _flat(column.cast(pa.timestamp("ns")).cast(pa.int64()))
    except pa.ArrowInvalid:
        raise _unconverted(
            source, name, column, pa.timestamp("ns"), "a time like 2023-11-16 18:17:03"
        ) from None
    return seconds_from_first(stamps, 10**9)


def seconds_from_first(stamps: NDArray[np.int64], per_second: int) -> FloatColumn:
    """Return integer clock readings as seconds after the earliest of them."""
    if not len(stamps):
        return np.empty(0)
    seconds: FloatColumn = (stamps - stamps.min()) / per_second
    return seconds


def labels(column: Column) -> NDArray[np.int64]:
    """Number the different strings of a column in the order in which they first occur."""
    return _flat(column.combine_chunks().dictionary_encode().indices).astype(np.int64)


def _flat(column: Column) -> NDArray[Any]:
    array: NDArray[Any] = column.to_numpy()
    return array


def _unconverted(source: Source, name: str, column: Column, kind: Any, wanted: str) -> InputError:
    """Find the first string that is not of the kind wanted."""
    import pyarrow as pa

    for row, value in enumerate(column, 1):
        try:
            value.cast(kind)
        except pa.ArrowInvalid:
            return InputError(
                f"{source.name} row {row}: {name} is {value.as_py()[:40]!r}; it must be {wanted}"
            )
    raise AssertionError("every value converts alone, the column does not")


def _missing(source: Source, names: tuple[str, ...]) -> InputError:
    found = source.head().keys
    absent = [name for name in names if name not in found] or names
    return InputError(f"{source.name}: no column {absent[0]!r}; the columns are {shown(sorted(found))}")


def _ragged(source: Source, row: Any) -> InputError:
    # pyarrow counts the header as row 1.
    number = f" row {row.number - 1}" if row.number else ""
    return InputError(
        f"{source.name}{number}: {row.actual_columns} fields where the header has {row.expected_columns}: "
        f"{row.text[:80]!r}"
    )
