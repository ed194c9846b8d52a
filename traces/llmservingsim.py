"""LLMServingSim workloads, with block ids or token ids, and its measured vLLM runs."""

from __future__ import annotations

import dataclasses

from kvsim.traces.origin import Coverage
from kvsim.traces.reader import Format, Found, Options, has
from kvsim.traces.rows import Collector, integers, json_rows
from kvsim.traces.source import Head, Source

BLOCK_TOKENS = 16
LENGTHS = {"prompt_tokens": "input_toks", "output_tokens": "output_toks"}


def read(source: Source, options: Options) -> Found:
    """Read rows of `input_toks`, `output_toks`, an arrival and, if present, `hash_ids` or `input_tok_ids`.

    `hash_ids` are those of full 16-token blocks; token ids become content ids of one token each. An
    arrival is `arrival_time_ns` from the start, or, in a measured run, `arrival_time` in seconds of the
    unix clock, which then counts from the earliest.
    """
    del options
    keys = source.head().keys
    content = next((key for key in ("input_tok_ids", "hash_ids") if key in keys), None)
    arrival = "arrival_time_ns" if "arrival_time_ns" in keys else "arrival_time"
    rows = _collect(source, arrival, content)
    if arrival == "arrival_time":
        trace = rows.trace()
        start = min(rows.arrival, default=0.0)
        return Found(trace=dataclasses.replace(trace, arrival=trace.arrival - start), origin=rows.origin())
    if content == "hash_ids":
        return Found(trace=rows.trace(BLOCK_TOKENS, 1e9), origin=rows.origin(Coverage.FLOOR, chained=True))
    return Found(trace=rows.trace(1 if content else 0, 1e9), origin=rows.origin(Coverage.CEIL))


def _collect(source: Source, arrival: str, content: str | None) -> Collector:
    fields = {"arrival": arrival, **LENGTHS, "block_ids": content or "block_ids"}
    rows = Collector(source, fields)
    for line, row in json_rows(source):
        place = rows.add(line, row)
        if content:
            rows.add_ids(integers(row, content, place))
    return rows


def _matches(head: Head) -> bool:
    timed = "arrival_time_ns" in head.keys or "arrival_time" in head.keys
    return has("json", *LENGTHS.values())(head) and timed


FORMAT = Format("llmservingsim", read, _matches)
