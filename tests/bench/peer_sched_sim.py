"""Replay one piece of work with sched-sim; run by the Python of the peers' environment.

Takes the path of a JSON file with the settings and prints JSON. It imports nothing of kvsim.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from sched_sim.core.event_engine import Simulator
from sched_sim.core.request import Request
from sched_sim.hardware.latency_model import RooflineLatencyModel
from sched_sim.hardware.profile import HardwareProfile
from sched_sim.memory.block_manager import BlockManager
from sched_sim.memory.preemption import PreemptionHandler
from sched_sim.schedulers.chunked import ChunkedPrefillScheduler


class Linear(RooflineLatencyModel):  # type: ignore[misc]
    """A + B · tokens + C · context seconds, through the methods that its engine calls."""

    def __init__(self, hardware: HardwareProfile, a: float, b: float, c: float) -> None:
        """Keep the three."""
        super().__init__(hardware)
        self.a, self.b, self.c = a, b, c

    def compute_prefill_step_time(self, num_prefill_tokens: int) -> float:
        """Price a step of prefills."""
        return self.a + (self.b + self.c) * num_prefill_tokens

    def compute_decode_step_time(self, batch_size: int, total_context_tokens: int) -> float:
        """Price a step of decodes."""
        return self.a + self.b * batch_size + self.c * total_context_tokens

    def compute_mixed_step_time(
        self, num_prefill_tokens: int, num_decode_requests: int, total_decode_context_tokens: int
    ) -> float:
        """Price a step of both."""
        tokens = num_prefill_tokens + num_decode_requests
        return self.a + self.b * tokens + self.c * (num_prefill_tokens + total_decode_context_tokens)


def simulator(work: dict[str, Any]) -> Simulator:  # Any: JSON
    """Build its engine with the pool and the limits of the work."""
    hardware = HardwareProfile()
    latency = Linear(hardware, *work["cost"])
    pool = BlockManager(hardware, block_size=work["block_size"])
    # Its own size follows from a GPU's memory; there is no parameter for a number of blocks.
    pool.total_gpu_blocks = work["blocks"]
    pool.free_gpu_blocks = list(range(work["blocks"]))
    scheduler = ChunkedPrefillScheduler(
        pool,
        latency,
        PreemptionHandler(pool, latency),
        max_batch_size=work["max_num_seqs"],
        max_token_budget=work["max_num_batched_tokens"],
    )
    return Simulator(hardware, scheduler)


def main() -> None:
    """Replay and say how much CPU time that took, the requests being there."""
    work = json.loads(Path(sys.argv[1]).read_text())
    engine = simulator(work)
    rows = [json.loads(line) for line in Path(work["trace"]).read_text().splitlines()]
    requests = [
        Request(
            request_id=str(number),
            arrived_at=row["timestamp"] / 1e3,
            prompt_tokens=row["input_length"],
            output_tokens=row["output_length"],
        )
        for number, row in enumerate(rows)
    ]
    engine.submit_workload(requests)
    began = time.process_time()
    metrics = engine.run()
    seconds = time.process_time() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "seconds": seconds,
        "whole_s": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
        "completed": metrics.completed_requests,
        "tpot_ms": metrics.tpot_ms.mean,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
