"""Splitwise's own CSV: relative arrival times and token counts."""

from __future__ import annotations

from kvsim.traces.origin import Origin
from kvsim.traces.reader import Format, Found, Options, has
from kvsim.traces.source import Source
from kvsim.traces.table import numbers, read_columns
from kvsim.traces.trace import Trace

FIELDS = {"arrival": "arrival_timestamp", "prompt_tokens": "prompt_size", "output_tokens": "token_size"}


def read(source: Source, options: Options) -> Found:
    """Read `arrival_timestamp` (seconds), `prompt_size` and `token_size`; the other columns are left."""
    del options
    columns = read_columns(source, tuple(FIELDS.values()))
    arrival, prompt, output = (numbers(source, name, columns[name]) for name in FIELDS.values())
    trace = Trace(name=source.name, arrival=arrival, prompt_tokens=prompt, output_tokens=output)
    return Found(trace=trace, origin=Origin(source.name, FIELDS))


FORMAT = Format("splitwise", read, has("csv", *FIELDS.values()))
