"""The result file of `vllm bench serve --save-detailed`: the lengths and start times of a real run."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from kvsim.errors import InputError
from kvsim.traces.origin import Origin
from kvsim.traces.reader import Format, Found, Options, has
from kvsim.traces.source import Source
from kvsim.traces.trace import Trace

FIELDS = {"arrival": "start_times", "prompt_tokens": "input_lens", "output_tokens": "output_lens"}


def read(source: Source, options: Options) -> Found:
    """Read `input_lens`, `output_lens` and `start_times` (s); requests without output failed, and are dropped.

    Older files have no start times (`ttfts` and `itls` are durations and say nothing of when a request
    was sent): arrivals are then drawn at the file's `request_rate`, with its `burstiness`.
    """
    del options
    result = _load(source)
    prompt, output = (_column(source, result, FIELDS[name]) for name in ("prompt_tokens", "output_tokens"))
    timed = "start_times" in result
    start = _column(source, result, "start_times") if timed else np.zeros(len(prompt))
    for name, column in (("output_lens", output), ("start_times", start)):
        if len(column) != len(prompt):
            raise InputError(f"{source.name}: {name} has {len(column)} values, input_lens has {len(prompt)}")
    kept = np.flatnonzero(output != 0)
    notes = []
    if failed := len(output) - len(kept):
        notes.append(f"{failed:,} failed requests (0 output tokens) dropped")
    trace = Trace(
        name=source.name,
        arrival=start[kept] - (start[kept].min() if len(kept) else 0.0),
        prompt_tokens=prompt[kept],
        output_tokens=output[kept],
        notes=tuple(notes),
    )
    origin = Origin(source.name, FIELDS, lambda row: f"{source.name} request {kept[row] + 1}")
    rate, process = _process(source, result)
    return Found(trace=trace, origin=origin, has_arrivals=timed, rate=rate, process=process)


def _load(source: Source) -> dict[str, Any]:
    with source.text() as stream:
        try:
            result = json.load(stream)
        except json.JSONDecodeError as error:
            raise InputError(f"{source.name}: not JSON: {error}") from error
    if not isinstance(result, dict):
        raise InputError(f"{source.name}: not a result of vllm bench serve: it is not a JSON object")
    return result


def _column(source: Source, result: dict[str, Any], field: str) -> np.ndarray[Any, Any]:
    values = result.get(field)
    if not isinstance(values, list):
        raise InputError(f"{source.name}: no list {field!r}; --save-detailed writes it")
    for position, value in enumerate(values, 1):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{source.name} request {position}: {field} is {value!r}; it must be a number")
    return np.array(values) if values else np.empty(0, np.int64)


def _process(source: Source, result: dict[str, Any]) -> tuple[float | None, str]:
    """Return the benchmark's request rate (None for infinite) and its arrival process.

    vLLM draws gamma gaps of shape `burstiness`, whose coefficient of variation is 1/√burstiness.
    """
    try:
        rate, burstiness = float(result.get("request_rate", math.inf)), float(result.get("burstiness") or 1)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source.name}: request_rate and burstiness must be numbers: {error}") from error
    if not (math.isfinite(rate) and rate > 0):
        return None, "poisson"
    if not burstiness > 0:
        raise InputError(f"{source.name}: burstiness is {burstiness}; it must be positive")
    return rate, "poisson" if burstiness == 1 else f"gamma:{burstiness**-0.5}"


FORMAT = Format("vllm-bench", read, has("json", "input_lens", "output_lens"))
