"""Write a trace as our own Parquet or as JSONL rows, under a temporary name until it is whole."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from kvsim.errors import InputError
from kvsim.traces.own_parquet import write as write_columns
from kvsim.traces.trace import Trace


def write_trace(trace: Trace, path: str | Path) -> None:
    """Write to `path` as its name says: `.parquet` keeps everything, `.jsonl` and `.jsonl.gz` are rows."""
    target = Path(path)
    if target.name.endswith(".parquet"):
        _whole(target, lambda temporary: write_columns(trace, temporary))
    elif target.name.endswith((".jsonl", ".jsonl.gz")):
        _whole(target, lambda temporary: _write_rows(trace, temporary, target.suffix == ".gz"))
    else:
        raise InputError(f"{target}: a trace is written as .parquet, .jsonl or .jsonl.gz")


def json_lines(trace: Trace) -> Iterator[str]:
    """Yield a JSON row per request, which `read_trace` reads back as format `rows`.

    The first row says how many tokens a hash id stands for.
    """
    columns = {
        "arrival_s": trace.arrival,
        "prompt_len": trace.prompt_tokens,
        "output_len": trace.output_tokens,
        "priority": trace.priority,
        "session": trace.session,
        "parent": trace.parent,
        "think_s": trace.think,
        "samples": trace.samples,
    }
    given = {name: column for name, column in columns.items() if column is not None}
    for row in range(len(trace)):
        values: dict[str, object] = {name: column[row].item() for name, column in given.items()}
        if trace.block_ids is not None:
            if not row:
                values["hash_block_tokens"] = trace.block_tokens
            values["hash_ids"] = trace.ids(row).tolist()
        yield json.dumps(values, separators=(",", ":")) + "\n"


def _write_rows(trace: Trace, path: Path, packed: bool) -> None:
    with path.open("wb") as file:
        if packed:
            # No name and no time in the header: the same trace gives the same bytes.
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
                _write_lines(trace, stream)
        else:
            _write_lines(trace, file)


def _write_lines(trace: Trace, stream: IO[bytes] | gzip.GzipFile) -> None:
    for line in json_lines(trace):
        stream.write(line.encode())


def _whole(target: Path, write: Callable[[Path], None]) -> None:
    """Write under a temporary name in the same folder, then rename; leave nothing behind on failure."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
