"""Our own Parquet: every column of a trace, exactly, with its name and notes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from kvsim.errors import InputError
from kvsim.traces.origin import Origin
from kvsim.traces.reader import Format, Found, Options
from kvsim.traces.source import Head, Source, shown
from kvsim.traces.trace import ROW_COLUMNS, Trace

VERSION = 1
KEY = b"kvsim_trace"
"""Key of the schema's metadata under which the rest of a trace is kept as JSON."""


def write(trace: Trace, path: Path) -> None:
    """Write a trace to `path` as it stands; `kvsim.traces.write` does this through a temporary name."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: pa.array(column) for name in ROW_COLUMNS if (column := getattr(trace, name)) is not None}
    if trace.block_ids is not None and trace.block_offsets is not None:
        offsets, ids = pa.array(trace.block_offsets), pa.array(trace.block_ids)
        columns["block_ids"] = pa.LargeListArray.from_arrays(offsets, ids)
    about = {
        "version": VERSION,
        "name": trace.name,
        "block_tokens": trace.block_tokens,
        "notes": trace.notes,
    }
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(about)})
    parquet.write_table(table, path, compression="zstd", use_dictionary=False)


def read(source: Source, options: Options) -> Found:
    """Read what `write` wrote."""
    del options
    from pyarrow import ArrowInvalid, parquet

    try:
        with source.binary() as stream:
            file = parquet.ParquetFile(io.BytesIO(stream.read()))
            about = _about(source, file.schema_arrow.metadata)
            table = file.read()
    except (ArrowInvalid, OSError) as error:
        raise InputError(f"{source.name}: not a Parquet file: {str(error).splitlines()[0]}") from error
    missing = {"arrival", "prompt_tokens", "output_tokens"} - set(table.column_names)
    if missing:
        raise InputError(
            f"{source.name}: no column {min(missing)!r}; the columns are {shown(table.column_names)}"
        )
    columns: dict[str, Any] = {name: _values(source, table, name) for name in ROW_COLUMNS}
    if "block_ids" in table.column_names:
        lists = table.column("block_ids").combine_chunks()
        offsets = np.from_dlpack(lists.offsets)
        columns["block_ids"] = np.from_dlpack(lists.values)[offsets[0] : offsets[-1]]
        columns["block_offsets"] = offsets - offsets[0]
    trace = Trace(
        name=about["name"], block_tokens=about["block_tokens"], notes=tuple(about["notes"]), **columns
    )
    return Found(trace=trace, origin=Origin(source.name))


def _about(source: Source, metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    if not metadata or KEY not in metadata:
        raise InputError(
            f"{source.name}: not a trace of ours; name its columns with --columns arrival=…,prompt=…"
        )
    about: dict[str, Any] = json.loads(metadata[KEY])
    if about["version"] != VERSION:
        raise InputError(f"{source.name}: trace format {about['version']}; this kvsim reads {VERSION}")
    return about


def _values(source: Source, table: Any, name: str) -> np.ndarray[Any, Any] | None:
    if name not in table.column_names:
        return None
    column = table.column(name)
    if column.null_count:
        raise InputError(f"{source.name}: {name} has {column.null_count} empty values; it must have none")
    # pyarrow's own to_numpy imports pandas.
    values: np.ndarray[Any, Any] = np.from_dlpack(column.combine_chunks())
    return values


def _matches(head: Head) -> bool:
    return head.kind == "parquet"


FORMAT = Format("kvsim", read, _matches)
