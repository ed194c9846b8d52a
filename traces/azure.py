"""Azure LLM inference traces (2023 and 2024): wall-clock time stamps and token counts."""

from __future__ import annotations

from kvsim.traces.origin import Origin
from kvsim.traces.reader import Format, Found, Options, has
from kvsim.traces.source import Source
from kvsim.traces.table import clock, numbers, read_columns
from kvsim.traces.trace import Trace

FIELDS = {"arrival": "TIMESTAMP", "prompt_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"}


def read(source: Source, options: Options) -> Found:
    """Read `TIMESTAMP,ContextTokens,GeneratedTokens`; arrivals count from the earliest stamp."""
    del options
    time, prompt, output = FIELDS.values()
    columns = read_columns(source, (time, prompt, output))
    trace = Trace(
        name=source.name,
        arrival=clock(source, time, columns[time]),
        prompt_tokens=numbers(source, prompt, columns[prompt]),
        output_tokens=numbers(source, output, columns[output]),
    )
    return Found(trace=trace, origin=Origin(source.name, FIELDS))


FORMAT = Format("azure", read, has("csv", *FIELDS.values()))
