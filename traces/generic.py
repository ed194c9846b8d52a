"""Any CSV, JSONL or Parquet table whose columns the user names."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import InputError
from kvsim.traces.origin import Origin
from kvsim.traces.reader import Format, Found, Options
from kvsim.traces.rows import json_rows
from kvsim.traces.source import Head, Source, shown
from kvsim.traces.table import Column, clock, labels, numbers, read_columns
from kvsim.traces.trace import Trace

COLUMNS = {
    "arrival": "arrival",
    "prompt": "prompt_tokens",
    "output": "output_tokens",
    "priority": "priority",
    "session": "session",
    "samples": "samples",
}
"""What a user calls a column → what a trace calls it."""


def read_csv(source: Source, options: Options) -> Found:
    """Read the named columns of a CSV file."""
    names = _names(source, options)
    return _found(source, names, read_columns(source, tuple(names.values())))


def read_jsonl(source: Source, options: Options) -> Found:
    """Read the named fields of JSON objects, one a line."""
    import pyarrow as pa

    names = _names(source, options)
    values: dict[str, list[str]] = {field: [] for field in names.values()}
    for line, row in json_rows(source):
        for field, column in values.items():
            if row.get(field) is None:
                raise InputError(f"{source.name} row {line}: no field {field!r}; the fields are {shown(row)}")
            column.append(str(row[field]))
    return _found(
        source, names, {field: pa.chunked_array([pa.array(v, pa.string())]) for field, v in values.items()}
    )


def read_parquet(source: Source, options: Options) -> Found:
    """Read the named columns of a Parquet file."""
    from pyarrow import ArrowInvalid, parquet

    names = _names(source, options)
    try:
        with source.binary() as stream:
            file = parquet.ParquetFile(io.BytesIO(stream.read()))
    except ArrowInvalid as error:
        raise InputError(f"{source.name}: not a Parquet file: {str(error).splitlines()[0]}") from error
    found = file.schema_arrow.names
    if absent := [field for field in names.values() if field not in found]:
        raise InputError(f"{source.name}: no column {absent[0]!r}; the columns are {shown(found)}")
    table = file.read(list(names.values()))
    return _found(source, names, {field: table.column(field) for field in names.values()})


def _names(source: Source, options: Options) -> dict[str, str]:
    """Return our columns → the file's, as the user gave them."""
    if unknown := sorted(set(options.columns) - set(COLUMNS)):
        raise InputError(f"--columns: no column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}")
    if missing := [name for name in ("prompt", "output") if name not in options.columns]:
        raise InputError(f"{source.name}: --columns must name {missing[0]!r}, as in {missing[0]}=FIELD")
    return {COLUMNS[name]: options.columns[name] for name in COLUMNS if name in options.columns}


def _found(source: Source, names: dict[str, str], columns: dict[str, Column]) -> Found:
    # The values are columns; their types are what `checked` looks at.
    values: dict[str, Any] = {
        name: _values(source, name, field, columns[field]) for name, field in names.items()
    }
    rows = len(values["prompt_tokens"])
    values.setdefault("arrival", np.zeros(rows))
    trace = Trace(name=source.name, **values)
    return Found(trace=trace, origin=Origin(source.name, names), has_arrivals="arrival" in names)


def _values(source: Source, name: str, field: str, column: Column) -> NDArray[Any]:
    import pyarrow as pa

    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy())) + 1
        raise InputError(f"{source.name} row {row}: {field} is empty; it must be a value")
    if name == "session":
        return labels(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ns")).cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        first = column[0].as_py() if len(column) else ""
        if name == "arrival" and re.match(r"\d{4}-\d\d-\d\d", first):
            return clock(source, field, column)
        return numbers(source, field, column)
    values: NDArray[Any] = column.to_numpy()
    return values


def _by_name_only(head: Head) -> bool:
    del head
    return False


FORMATS = (
    Format("csv", read_csv, _by_name_only),
    Format("jsonl", read_jsonl, _by_name_only),
    Format("parquet", read_parquet, _by_name_only),
)


def by_kind(kind: str) -> Format | None:
    """Return the reader for a table of this kind of file, if there is one."""
    name = {"csv": "csv", "json": "jsonl", "parquet": "parquet"}.get(kind)
    return next((known for known in FORMATS if known.name == name), None)
