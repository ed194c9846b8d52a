"""Vidur's CSV, with arrivals or with lengths only; etalon's length files have the same columns."""

from __future__ import annotations

import numpy as np

from kvsim.traces.origin import Origin
from kvsim.traces.reader import Format, Found, Options, has
from kvsim.traces.source import Source
from kvsim.traces.table import numbers, read_columns
from kvsim.traces.trace import Trace

LENGTHS = {"prompt_tokens": "num_prefill_tokens", "output_tokens": "num_decode_tokens"}
FIELDS = {"arrival": "arrived_at", **LENGTHS}


def read(source: Source, options: Options) -> Found:
    """Read `arrived_at` (seconds), `num_prefill_tokens` and `num_decode_tokens`."""
    del options
    columns = read_columns(source, tuple(FIELDS.values()))
    arrival, prompt, output = (numbers(source, name, columns[name]) for name in FIELDS.values())
    trace = Trace(name=source.name, arrival=arrival, prompt_tokens=prompt, output_tokens=output)
    return Found(trace=trace, origin=Origin(source.name, FIELDS))


def read_lengths(source: Source, options: Options) -> Found:
    """Read `num_prefill_tokens` and `num_decode_tokens`; the file says nothing of arrivals."""
    del options
    columns = read_columns(source, tuple(LENGTHS.values()))
    prompt, output = (numbers(source, name, columns[name]) for name in LENGTHS.values())
    trace = Trace(name=source.name, arrival=np.zeros(len(prompt)), prompt_tokens=prompt, output_tokens=output)
    return Found(trace=trace, origin=Origin(source.name, LENGTHS), has_arrivals=False)


FORMAT = Format("vidur", read, has("csv", *FIELDS.values()))
LENGTHS_FORMAT = Format("lengths", read_lengths, has("csv", *LENGTHS.values()))
