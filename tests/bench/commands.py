"""Wall time of the command line: a comparison after start-up, the help text, importing the core."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kvsim.traces.write import write_trace
from tests.bench.rows import Row, Target
from tests.bench.timing import Timed, say, wall
from tests.bench.workloads import COST, lognormal

POLICIES = "contiguous,paged,prefix,sliding-window"


def kvsim(*words: str | Path) -> list[str | Path]:
    """Return the command line's words, of the installation that this Python belongs to."""
    return [Path(sys.executable).with_name("kvsim"), *words]


def compare_rows(requests: int, repeat: int) -> Iterator[Row]:
    """Compare four policies from the command line, as a user would, capacity included; start-up taken off."""
    say("kvsim compare")
    with tempfile.TemporaryDirectory() as folder:
        whole, start = [_compare(Path(folder), size, repeat) for size in (requests, 10)]
    yield Row(
        name=f"kvsim compare, four policies, {requests:,} requests",
        figure=whole.seconds - start.seconds,
        unit="s",
        target=Target(value=3.0, is_most=True),
        loop=whole.loop,
        notes={"start-up": start.seconds},
    )


def _compare(folder: Path, requests: int, repeat: int) -> Timed:
    trace = folder / f"{requests}.parquet"
    write_trace(lognormal(requests), trace)
    flags = ("--num-gpu-blocks-override", "24576", "--max-model-len", "32000", "--cost", COST, "--jobs", "2")
    return wall(kvsim("compare", trace, "--policies", POLICIES, *flags, "--json"), repeat)


def startup_rows(repeat: int) -> Iterator[Row]:
    """Time `kvsim --help` and the import of the core."""
    say("start-up")
    bare = wall([sys.executable, "-c", "pass"], repeat)
    shown = wall(kvsim("--help"), repeat)
    core = wall([sys.executable, "-c", "import kvsim.run"], repeat)
    notes: dict[str, float | str] = {"bare Python": bare.seconds}
    yield Row(
        name="kvsim --help",
        figure=shown.seconds,
        unit="s",
        target=Target(value=0.3, is_most=True),
        loop=shown.loop,
        notes=notes,
    )
    yield Row(
        name="import of the core",
        figure=core.seconds - bare.seconds,
        unit="s",
        target=Target(value=0.5, is_most=True),
        loop=core.loop,
    )
