"""Many generated requests on one core with results written: time, memory, and whether the cost a request is flat.

`python -m tests.bench.million REQUESTS` is one run in a process of its own, which prints JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.engine import run
from tests.bench.rows import Row, Target
from tests.bench.timing import ROOT, calibration_loop, say
from tests.bench.workloads import lognormal

BLOCKS = 24_576
SECONDS = Target(value=20.0, is_most=True)
GIGABYTES = Target(value=1.0, is_most=True)


def one_run(requests: int, folder: Path) -> dict[str, float]:
    """Generate, replay and save; return CPU seconds and memory."""
    run(lognormal(100), "paged", BLOCKS).save(folder / "first")  # what is imported when first used
    trace = lognormal(requests)
    loaded, began = resident(), time.process_time()
    result = run(trace, "paged", BLOCKS)
    simulated = time.process_time()
    result.save(folder / "run")
    saved = time.process_time()
    return {
        "simulate_s": simulated - began,
        "save_s": saved - simulated,
        "loaded_gb": loaded,
        "peak_gb": resident(),
        "completed": result.summary["completed"],
    }


def resident() -> float:
    """Return the most memory this process has had, in GB; Linux counts KiB, macOS bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def million_rows(largest: int, repeat: int) -> Iterator[Row]:
    """Run a hundredth, a tenth, and all of `largest` requests, each in a process of its own."""
    speeds = []
    for requests in (largest // 100, largest // 10, largest):
        name = f"{requests:,} requests"
        say(name)
        loop, found = min(
            ((calibration_loop(), _in_child(requests)) for _ in range(repeat if requests < largest else 1)),
            key=lambda pair: pair[1]["simulate_s"] + pair[1]["save_s"],
        )
        seconds = found["simulate_s"] + found["save_s"]
        speeds.append(requests / seconds)
        notes: dict[str, float | str] = {"of that saving": found["save_s"], "requests/CPU-s": speeds[-1]}
        yield Row(
            name=f"{name}, simulated and saved",
            figure=seconds,
            unit="CPU-s",
            target=SECONDS if requests == largest else None,
            loop=loop,
            notes=notes,
        )
        memory = {"before the run": found["loaded_gb"]}
        target = GIGABYTES if requests == largest else None
        yield Row(
            name=f"{name}, peak memory", figure=found["peak_gb"], unit="GB", target=target, notes={**memory}
        )
    yield Row(
        name=f"cost a request, {largest:,} against {largest // 100:,}",
        figure=speeds[0] / speeds[-1],
        unit="times",
    )


def _in_child(requests: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.million", str(requests)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run once and print what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(one_run(int(sys.argv[1]), Path(folder))))


if __name__ == "__main__":
    main()
