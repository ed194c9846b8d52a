"""Run, comparison and sweep folders for the tests of plots and reports."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd

import kvsim
from kvsim.comparison import Comparison
from kvsim.traces import Trace
from kvsim.traces.generate import generate

EVIL = "<script>document.title = 'owned'</script>"
MODEL = {
    "model": "mistral-7b-v0.1",
    "gpu": "a100-40-sxm",
    "max_model_len": 4096,
    "kv_cache_memory_bytes": 2**30,
}


def named(name: str, requests: int = 40, **more: Any) -> Trace:
    """Draw a trace that shares prefixes, under this name."""
    return dataclasses.replace(generate("chat", requests, rate=4.0, seed=0, **more), name=name)


def compared(name: str = "small", requests: int = 40, **more: Any) -> Comparison:
    """Compare two policies on it in a small pool."""
    return kvsim.compare(
        named(name, requests), ["paged", "prefix"], jobs=1, measure_capacity=False, **(MODEL | more)
    )


def swept(folder: Path, **status: str) -> Path:
    """Write a sweep's folder; cells named here have that status and no numbers, as in paged_2=failed."""
    rows = []
    for policy, best in (("paged", 5.0), ("prefix", 9.0)):
        for rate in (1, 2, 4, 8):
            state = status.get(f"{policy}_{rate}", "ok")
            there = state == "ok"
            served = min(rate, best) if there else None
            rows.append(
                {
                    "policy": policy, "rate": rate, "seed": 0, "completed": 40.0 if there else None,
                    "request_throughput": served, "output_throughput": served and 100.0 * served,
                    "p99_ttft_ms": 50.0 * rate if there else None, "waste": 0.01 if there else None,
                    "status": state, "error": EVIL if state == "failed" else None,
                    "cell": f"policy={policy},rate={rate}", "key": f"{policy}{rate}",
                }
            )  # fmt: skip
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "cells.csv", index=False)
    (folder / "experiment.toml").write_text(f'name = "{EVIL}"\n[sweep]\nrate = [1, 2, 4, 8]\n')
    return folder


def cell_file(folder: Path, key: str, config: dict[str, Any]) -> None:
    """Write what a finished cell says it rests on."""
    settings = config.pop("settings")
    record = {
        "inputs": {"settings": settings, "versions": {"kvsim": "0.1.0"}},
        "outcome": {"run": config},
    }
    (folder / "cells").mkdir(exist_ok=True)
    (folder / "cells" / f"{key}.json").write_text(json.dumps(record, default=str))
