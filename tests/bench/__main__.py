"""Time the engine on generated work: requests per CPU-second, and microseconds a step.

Run by `make bench`. Every row is one process' CPU time (`time.process_time`), so other load on the machine moves
it little; compare rows of one run with each other, not with another day's.
"""

from __future__ import annotations

import platform
import subprocess
import time

import numpy as np

from kvsim.run import simulate
from kvsim.traces.generate import generate
from kvsim.traces.trace import Trace

COST = "linear:0.008,1e-5,5e-8"


def lognormal(requests: int, rate: float, seed: int = 0) -> Trace:
    """Draw prompts of mean ≈ 880 and outputs of mean ≈ 250 tokens, log-normal, Poisson arrivals."""
    rng = np.random.default_rng(seed)
    prompt = rng.lognormal(np.log(880) - 0.5, 1.0, requests).astype(np.int64).clip(1, 16_000)
    output = rng.lognormal(np.log(250) - 0.32, 0.8, requests).astype(np.int64).clip(1, 4_000)
    arrival = np.cumsum(rng.exponential(1 / rate, requests))
    return Trace(name="log-normal", arrival=arrival, prompt_tokens=prompt, output_tokens=output)


CASES = (
    ("log-normal 6/s", lognormal(10_000, 6.0), "contiguous", 24_576),
    ("log-normal 6/s", lognormal(10_000, 6.0), "paged", 24_576),
    ("log-normal 6/s", lognormal(10_000, 6.0), "paged", 2_048),
    ("log-normal 6/s", lognormal(10_000, 6.0), "prefix", 24_576),
    ("agent 0.5/s", generate("agent", 2_000, rate=0.5), "prefix", 65_536),
    ("long documents 1/s", generate("long-documents", 2_000, rate=1.0), "sliding-window", 8_192),
)


def main() -> None:
    """Print one row a case."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    python = platform.python_version()
    print(f"{platform.machine()}, Python {python}, commit {commit.stdout.strip() or 'unknown'}, cost {COST}")
    print(
        f"{'workload':20} {'policy':15} {'blocks':>7} {'requests':>9} {'req/CPU-s':>10} {'µs/step':>8} {'running':>8}"
    )
    for name, trace, policy, blocks in CASES:
        began = time.process_time()
        result = simulate(
            trace,
            policy,
            num_gpu_blocks_override=blocks,
            cost=COST,
            max_model_len=32_000,
            measure_capacity=False,
        )
        seconds = time.process_time() - began
        summary = result.summary
        each = seconds / max(1, summary["steps"]) * 1e6
        print(
            f"{name:20} {policy:15} {blocks:7,} {len(trace):9,} {len(trace) / seconds:10,.0f} "
            f"{each:8.1f} {summary['running_mean']:8.1f}"
        )


if __name__ == "__main__":
    main()
