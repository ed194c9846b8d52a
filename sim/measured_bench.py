"""A measured run as the result file of `vllm bench serve --save-result --save-detailed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kvsim.errors import InputError
from kvsim.measured import Measured, Requests
from kvsim.measured_folder import read_folder
from kvsim.measured_settings import engine_settings

RECORD = "record it with vllm bench serve --save-result --save-detailed"


def read_measured(path: Path) -> Measured:
    """Read a measured run: a folder with requests.jsonl, or a result file of `vllm bench serve`."""
    if path.is_dir():
        return read_folder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    return read_bench(path)


def read_bench(path: Path) -> Measured:
    """Read a result file; requests without output failed, and are left out.

    A request's last token comes at start + TTFT + Σ gaps, by the client's clock; when it was scheduled is not known.
    """
    try:
        result = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not JSON: {error}; a measured run is a folder or a bench result"
        ) from error
    if not isinstance(result, dict):
        raise InputError(f"{path}: not a JSON object; {RECORD}")
    prompt, output, ttfts = (_column(path, result, name) for name in ("input_lens", "output_lens", "ttfts"))
    if "start_times" not in result:
        raise InputError(
            f"{path}: no list 'start_times', so arrivals are unknown; newer versions of vllm write it"
        )
    start = _column(path, result, "start_times", len(prompt))
    gaps = _gaps(path, result, len(prompt))
    for name, column in (("output_lens", output), ("ttfts", ttfts)):
        if len(column) != len(prompt):
            raise InputError(f"{path}: {name} has {len(column)} values, input_lens has {len(prompt)}")
    kept = np.flatnonzero(output > 0)
    if not len(kept):
        raise InputError(f"{path}: no request was answered")
    failed = len(output) - len(kept)
    arrival = start[kept] - start[kept].min()
    first = arrival + ttfts[kept]
    requests = Requests(
        arrival=arrival,
        first_token=first,
        finish=first + gaps[kept],
        prompt_tokens=prompt[kept].astype(np.int64),
        output_tokens=output[kept].astype(np.int64),
    )
    settings, notes = engine_settings({"model": result.get("model_id")}, "", path.name)
    notes = [*([f"{failed:,} failed requests are left out"] if failed else []), *notes]
    notes.append("when requests were scheduled and how full the KV cache was is not in such a file")
    return Measured(name=path.name, requests=requests, settings=settings, notes=tuple(notes))


def _column(path: Path, result: dict[str, Any], name: str, count: int | None = None) -> Any:  # Any: an array
    values = result.get(name)
    if not isinstance(values, list):
        raise InputError(f"{path}: no list {name!r}; {RECORD}")
    for position, value in enumerate(values, 1):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise InputError(
                f"{path} request {position}: {name} is {value!r}; it must be a number of at least 0"
            )
    if count is not None and len(values) != count:
        raise InputError(f"{path}: {name} has {len(values)} values, input_lens has {count}")
    return np.array(values, dtype=np.float64)


def _gaps(path: Path, result: dict[str, Any], count: int) -> Any:  # Any: an array
    """Return the seconds between first and last token of each request."""
    values = result.get("itls")
    if not isinstance(values, list) or len(values) != count:
        raise InputError(f"{path}: no list 'itls' with one list a request; {RECORD}")
    sums = []
    for position, gaps in enumerate(values, 1):
        if not isinstance(gaps, list) or not all(
            isinstance(gap, int | float) and not isinstance(gap, bool) and gap >= 0 for gap in gaps
        ):
            raise InputError(f"{path} request {position}: itls must be a list of seconds")
        sums.append(float(sum(gaps)))
    return np.array(sums, dtype=np.float64)
