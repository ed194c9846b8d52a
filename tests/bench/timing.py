"""CPU time, wall time, memory, and a fixed loop that tells how fast the machine is at the moment."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]


class Timed(NamedTuple):
    """The best of a few runs, and what the machine could do meanwhile."""

    seconds: float
    loop: float
    """Best time of the calibration loop, taken beside each run, in seconds."""


def calibration_loop() -> float:
    """Return the CPU seconds of one million turns of a plain Python loop."""
    began = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number & 7
    return time.process_time() - began


def cpu(run: Callable[[], T], repeat: int) -> tuple[Timed, T]:
    """Run a few times; return the least CPU time of this process and the last outcome."""
    seconds, loops = [], []
    for _ in range(repeat):
        gc.collect()
        loops.append(calibration_loop())
        began = time.process_time()
        outcome = run()
        seconds.append(time.process_time() - began)
    return Timed(min(seconds), min(loops)), outcome


def wall(command: Sequence[str | Path], repeat: int) -> Timed:
    """Run a command a few times in a quiet child; return the least wall time."""
    seconds, loops = [], []
    for _ in range(repeat):
        loops.append(calibration_loop())
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        seconds.append(time.perf_counter() - began)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {last}")
    return Timed(min(seconds), min(loops))


def machine() -> dict[str, str]:
    """Say what the figures depend on besides the code: processor, load, Python, commit."""
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changed else ""),
    }


def git(*words: str) -> str:
    """Return what git says of this checkout, or nothing."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def processor() -> str:
    """Return the processor's name as Linux tells it, or what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def say(text: str) -> None:
    """Tell on stderr what is being timed."""
    print(text, file=sys.stderr, flush=True)
