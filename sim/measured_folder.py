"""A measured run as a folder: requests.jsonl, and if present timeseries.csv and meta.json.

The format is that of LLMServingSim's bench (github.com/casys-kaist/LLMServingSim), which drives vLLM's `AsyncLLM` and
writes down the time stamps that the engine keeps of each request.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kvsim.errors import InputError
from kvsim.measured import Measured, Requests, Usage
from kvsim.measured_settings import engine_settings
from kvsim.request import FloatColumn

STAMPS = ("arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
COUNTS = ("input_toks", "output_toks")
SAME_CLOCK = 1e5
"""Seconds by which stamps of one clock may differ: a unix clock and one that starts at boot lie further apart."""


def read_folder(folder: Path) -> Measured:
    """Read a folder with a row a request.

    `arrival_time` may be on another clock than the engine's stamps. Then it is moved so that the quickest request
    reached the engine at once, which makes TTFT too short by that one's way there.
    """
    rows = list(_rows(folder / "requests.jsonl"))
    answered = [row for row in rows if row["last_token_ts"] is not None]
    notes = []
    if len(answered) < len(rows):
        notes.append(f"{len(rows) - len(answered):,} requests were not answered, and are left out")
    if not answered:
        raise InputError(f"{folder / 'requests.jsonl'}: no request was answered")
    stamps = {name: np.array([row[name] for row in answered], dtype=np.float64) for name in STAMPS}
    arrival, moved = _on_one_clock(stamps)
    notes += moved
    start = float(arrival.min())
    prompt, output = (np.array([row[name] for row in answered], dtype=np.int64) for name in COUNTS)
    requests = Requests(
        arrival=arrival - start,
        scheduled=np.maximum(stamps["scheduled_ts"], arrival) - start,
        first_token=stamps["first_token_ts"] - start,
        finish=stamps["last_token_ts"] - start,
        prompt_tokens=prompt,
        output_tokens=output,
    )
    usage, missing = _usage(folder / "timeseries.csv")
    settings, facts, said = _meta(folder / "meta.json")
    return Measured(
        name=folder.name,
        requests=requests,
        settings=settings,
        usage=usage,
        facts=facts,
        notes=(*notes, *missing, *said),
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:  # Any: JSON
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: {reason}; a measured run is a folder with requests.jsonl") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path} line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number}: not a JSON object")
        for name in (*COUNTS, *STAMPS):
            row[name] = _number(path, number, row, name)
        if row["last_token_ts"] is not None and None in [row[name] for name in STAMPS]:
            absent = next(name for name in STAMPS if row[name] is None)
            raise InputError(f"{path} line {number}: {absent} is missing in a request that was answered")
        yield row


def _number(path: Path, line: int, row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    is_count = name in COUNTS
    if value is None and not is_count:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        allowed = "a whole number of tokens" if is_count else "seconds, or null"
        raise InputError(f"{path} line {line}: {name} is {value!r}; it must be {allowed}")
    if is_count and (value < 1 or value != int(value)):
        raise InputError(f"{path} line {line}: {name} is {value!r}; it must be a whole number of at least 1")
    return value


def _on_one_clock(stamps: dict[str, FloatColumn]) -> tuple[FloatColumn, list[str]]:
    """Return arrivals on the engine's clock, and a note where they had to be moved."""
    arrival, queued = stamps["arrival_time"], stamps["queued_ts"]
    if np.abs(arrival - queued).max() < SAME_CLOCK:
        return np.minimum(arrival, queued), []
    late = queued - arrival
    quickest = float(late.min())
    reach = float((late - quickest).mean())
    note = (
        "arrivals are on another clock than the engine's stamps; they were moved so that the quickest request "
        f"reached the engine at once, the mean one after {1e3 * reach:.1f} ms"
    )
    return arrival + quickest, [note]


def _usage(path: Path) -> tuple[Usage | None, list[str]]:
    """Return KV use over time; a column of zeros says that it was not recorded."""
    if not path.is_file():
        return None, ["no timeseries.csv: KV use over time was not recorded"]
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        seconds = np.array([float(row["t"]) for row in rows])
        share = np.array([float(row["kv_cache_pct"]) / 100 for row in rows])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: needs number columns t and kv_cache_pct: {error!r}") from error
    if not share.any():
        return None, ["kv_cache_pct is 0 throughout timeseries.csv: KV use was not recorded"]
    return Usage(seconds=seconds, share=share), []


def _meta(path: Path) -> tuple[dict[str, object], dict[str, str], list[str]]:
    if not path.is_file():
        return {}, {}, ["no meta.json: the server's settings have to be given as flags"]
    try:
        meta = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("engine_kwargs", {}), dict):
        raise InputError(f"{path}: not an object with engine_kwargs")
    version = str(meta.get("vllm_version") or "")
    stated = dict(meta.get("engine_kwargs") or {}) | {"model": meta.get("model")}
    cache = meta.get("kv_cache") or {}
    if isinstance(cache, dict):
        known = ("block_size", "enable_prefix_caching", "gpu_memory_utilization")
        stated |= {name: cache[name] for name in known if cache.get(name) is not None}
        stated["num_gpu_blocks"] = cache.get("num_gpu_blocks")
    settings, notes = engine_settings(stated, version, path.name)
    hardware = meta.get("hardware") or {}
    device = hardware.get("device_name") if isinstance(hardware, dict) else None
    facts = {"engine": f"vLLM {version}" if version else "", "GPU": str(device or "")}
    return settings, {name: value for name, value in facts.items() if value}, notes
