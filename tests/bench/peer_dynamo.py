"""Replay one piece of work with the mocker of NVIDIA Dynamo; run by the Python of the peers' environment.

Takes the path of a JSON file with the settings and prints JSON. It imports nothing of kvsim.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    """Replay and say how much CPU time that took, the reading of the file included."""
    work = json.loads(Path(sys.argv[1]).read_text())
    from dynamo._core import run_mocker_trace_replay

    prefill_ms, decode_ms = work["fixed_ms"]
    engine = {
        "backend": "vllm",
        "block_size": work["block_size"],
        "num_gpu_blocks": work["blocks"],
        "max_model_len": work["max_model_len"],
        "max_num_seqs": work["max_num_seqs"],
        "max_num_batched_tokens": work["max_num_batched_tokens"],
        "enable_prefix_caching": work["prefix"],
        "timing_model": {"type": "fixed", "prefill_ms": prefill_ms, "decode_ms": decode_ms},
    }
    began = time.process_time()
    replayed = run_mocker_trace_replay(
        [work["trace"]],
        extra_engine_args={"engine": engine},
        trace_block_size=work["id_tokens"],
        capture_planner_details=False,
    )
    seconds = time.process_time() - began
    summary, used = replayed.summary, resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "seconds": seconds,
        "whole_s": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
        "completed": summary["completed_requests"],
        "tpot_ms": summary["mean_tpot_ms"],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
