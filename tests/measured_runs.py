"""Measured runs that a simulation made: what a server would have recorded had it behaved as simulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kvsim.config import RunConfig
from kvsim.result import Result
from kvsim.run import simulate
from kvsim.traces.read import read_trace

COST = "linear:0.01,1e-5,1e-7"
SETTINGS = {"max_num_seqs": 8, "max_num_batched_tokens": 256, "num_gpu_blocks_override": 400}
UNIX = 1.7e9


def write_trace(path: Path, requests: int = 40) -> Path:
    rows = [
        {"arrival_s": i / 8 + (i % 3) / 64, "prompt_len": 30 + 7 * (i % 11), "output_len": 5 + i % 9}
        for i in range(requests)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def run(trace: Path) -> Result:
    config = RunConfig(cost=COST, async_scheduling=True).changed(**SETTINGS)
    return simulate(read_trace(trace), "prefix", config, measure_capacity=False)


def write_folder(folder: Path, result: Result, *, slower: float = 1.0, unix: bool = False) -> Path:
    """Write what the engine would have recorded; all that happens after an arrival takes `slower` times as long."""
    folder.mkdir()
    rows = []
    for row in result.requests.itertuples():
        stamps = {
            "scheduled_ts": row.first_scheduled_s,
            "first_token_ts": row.first_token_s,
            "last_token_ts": row.finish_s,
        }
        late = {name: row.arrival_s + slower * (at - row.arrival_s) for name, at in stamps.items()}
        rows.append(
            {
                "request_id": f"r{row.Index}",
                "input_toks": row.prompt_tokens,
                "output_toks": row.output_tokens,
                "arrival_time": row.arrival_s + (UNIX if unix else 0),
                "queued_ts": row.arrival_s,
                **late,
            }
        )
    (folder / "requests.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return write_meta(folder, engine_kwargs=SETTINGS | {"num_gpu_blocks_override": None}, num_gpu_blocks=400)


def write_meta(folder: Path, *, engine_kwargs: dict[str, Any], num_gpu_blocks: int | None = None) -> Path:
    meta = {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "vllm_version": "0.19.0",
        "engine_kwargs": engine_kwargs,
    }
    if num_gpu_blocks is not None:
        meta["kv_cache"] = {"num_gpu_blocks": num_gpu_blocks, "block_size": 16}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def write_usage(folder: Path, result: Result) -> None:
    """Write KV use as the server samples it: the last value of each second."""
    timeline = result.timeline
    seconds = np.arange(1.0, timeline["end_s"].max() + 1)
    place = np.searchsorted(timeline["end_s"].to_numpy(), seconds).clip(max=len(timeline) - 1)
    shares = 100 * timeline["kv_cache_usage"].to_numpy()[place]
    lines = [f"{second},0,0,0,0,{share}" for second, share in zip(seconds, shares, strict=True)]
    head = "t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct"
    (folder / "timeseries.csv").write_text("\n".join([head, *lines]) + "\n")


def bench_record(result: Result) -> dict[str, Any]:
    """Return what `vllm bench serve --save-detailed` would have saved."""
    frame = result.requests
    gaps = [
        [(finish - first) / (count - 1)] * (count - 1) if count > 1 else []
        for first, finish, count in zip(
            frame["first_token_s"], frame["finish_s"], frame["output_tokens"], strict=True
        )
    ]
    return {
        "model_id": "meta-llama/Llama-3.1-8B",
        "request_rate": 8.0,
        "input_lens": frame["prompt_tokens"].tolist(),
        "output_lens": frame["output_tokens"].tolist(),
        "ttfts": (frame["ttft_ms"] / 1e3).tolist(),
        "itls": gaps,
        "start_times": (1e4 + frame["arrival_s"]).tolist(),
        "errors": [""] * len(frame),
    }
