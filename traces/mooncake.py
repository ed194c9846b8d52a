"""Mooncake (FAST 2025): arrivals in ms, prefix-chained ids of 512-token blocks, the last one partial."""

from __future__ import annotations

from kvsim.traces.origin import Coverage
from kvsim.traces.reader import Format, Found, Options, has
from kvsim.traces.rows import Collector, integers, json_rows
from kvsim.traces.source import Source

BLOCK_TOKENS = 512
FIELDS = {
    "arrival": "timestamp",
    "prompt_tokens": "input_length",
    "output_tokens": "output_length",
    "block_ids": "hash_ids",
}


def read(source: Source, options: Options) -> Found:
    """Read rows of `timestamp` (ms), `input_length`, `output_length`, `hash_ids`."""
    del options
    rows = Collector(source, FIELDS)
    for line, row in json_rows(source):
        place = rows.add(line, row)
        rows.add_ids(integers(row, "hash_ids", place))
    return Found(trace=rows.trace(BLOCK_TOKENS, 1000), origin=rows.origin(Coverage.CEIL, chained=True))


FORMAT = Format("mooncake", read, has("json", *FIELDS.values(), without=("chat_id",)))
