"""Make manifests like those recorded from vLLM, from what the reference does."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from reference.contents import Row
from reference.loop import run

ROWS: list[Row] = [
    {"arrival_s": 0.0, "prompt_len": 12, "output_len": 9, "hash_ids": [0, 1, 2]},
    {"arrival_s": 0.0, "prompt_len": 10, "output_len": 12, "hash_ids": [0, 1]},
    {"arrival_s": 0.125, "prompt_len": 9, "output_len": 6},
    {"arrival_s": 0.5, "prompt_len": 17, "output_len": 3, "hash_ids": [0, 1, 2]},
]
CONFIG: dict[str, Any] = {
    "num_blocks": 8,
    "block_size": 4,
    "groups": [{"type": "full"}],
    "max_num_seqs": 4,
    "max_num_batched_tokens": 16,
    "max_model_len": 32,
    "enable_prefix_caching": True,
    "hash_block_tokens": 4,
    "cost_a": 2.0**-7,
    "cost_b": 2.0**-17,
    "cost_c": 2.0**-26,
}


def record(folder: Path, *, rows: list[Row] = ROWS, vllm: str = "0.32.0", **changes: Any) -> Path:
    """Write trace, log and manifest of one case `small`, as detailed as can be; return the manifest."""
    config = CONFIG | changes
    log = run(rows, config, detail=True)
    lines = [{"kind": "header", "vllm": vllm, "config": config, "requests": len(rows)}]
    lines += [{"kind": "step", **step} for step in log.steps]
    lines += [{"kind": "request", **row} for row in log.requests]
    case = {"config": config, "detail": True}
    for name, content in (("trace", rows), ("log", lines)):
        text = "".join(json.dumps(line) + "\n" for line in content).encode()
        case[name] = f"small_{name}.jsonl.gz"
        case[f"{name}_sha256"] = hashlib.sha256(text).hexdigest()
        (folder / str(case[name])).write_bytes(gzip.compress(text))
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"vllm": vllm, "cases": {"small": case}}))
    return manifest


def edit_log(manifest: Path, line: int, **values: Any) -> None:
    """Change fields of one line (from 0, the header) of the log, and the hash with it."""
    content = json.loads(manifest.read_text())
    case = content["cases"]["small"]
    path = manifest.parent / case["log"]
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | values)
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text))
    case["log_sha256"] = hashlib.sha256(text).hexdigest()
    manifest.write_text(json.dumps(content))
