"""BurstGPT: two months of a campus's ChatGPT and GPT-4 traffic; failed requests have no response."""

from __future__ import annotations

import numpy as np

from kvsim.traces.origin import Origin
from kvsim.traces.reader import Format, Found, Options, has
from kvsim.traces.source import Source
from kvsim.traces.table import numbers, read_columns
from kvsim.traces.trace import Trace

FIELDS = {"arrival": "Timestamp", "prompt_tokens": "Request tokens", "output_tokens": "Response tokens"}


def read(source: Source, options: Options) -> Found:
    """Read `Timestamp` (seconds) and token counts; rows with 0 response tokens failed, and are dropped."""
    del options
    columns = read_columns(source, tuple(FIELDS.values()))
    arrival, prompt, output = (numbers(source, name, columns[name]) for name in FIELDS.values())
    kept = np.flatnonzero(output != 0)
    failed = len(output) - len(kept)
    trace = Trace(
        name=source.name,
        arrival=arrival[kept],
        prompt_tokens=prompt[kept],
        output_tokens=output[kept],
        notes=(f"{failed:,} failed requests (0 response tokens) dropped",) if failed else (),
    )
    origin = Origin(source.name, FIELDS, lambda row: f"{source.name} row {kept[row] + 1}")
    return Found(trace=trace, origin=origin)


FORMAT = Format("burstgpt", read, has("csv", *FIELDS.values()))
