"""Replay one piece of work with kvsim, as the scripts of the peers do; prints JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from kvsim.run import simulate
from kvsim.traces import read_trace
from tests.bench.workloads import lognormal


def main() -> None:
    """Replay and say how much CPU time that took, the requests being there."""
    work = json.loads(Path(sys.argv[1]).read_text())
    cost = "linear:" + ",".join(map(repr, work["cost"]))
    settings = {
        "block_size": work["block_size"],
        "num_gpu_blocks_override": work["blocks"],
        "max_model_len": work["max_model_len"],
        "max_num_seqs": work["max_num_seqs"],
        "max_num_batched_tokens": work["max_num_batched_tokens"],
        "cost": cost,
        "measure_capacity": False,
    }
    policy = "prefix" if work["prefix"] else "paged"
    trace = read_trace(work["trace"])
    simulate(lognormal(10), policy, **settings)  # what is imported when first used
    began = time.process_time()
    result = simulate(trace, policy, **settings)
    seconds = time.process_time() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "seconds": seconds,
        "whole_s": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
        "completed": result.summary["completed"],
        "tpot_ms": result.summary["mean_tpot_ms"],
        "preemptions": result.summary["preemptions"],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
