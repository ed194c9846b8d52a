"""A calibration on a device whose cost is known: the bench, and a session on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import synthetic_device as device
from small_tables import SMALL

from kvsim.calibration.bench import Ready, case_point
from kvsim.calibration.gemm_shapes import gemm_shapes
from kvsim.calibration.grid import Extent, Planned, make_grid
from kvsim.calibration.partial_file import PartialFile
from kvsim.calibration.points import Point
from kvsim.calibration.session import Session
from kvsim.calibration.timer import CpuTimer

EXTENT = Extent(heads=device.HEADS, pool_tokens=1 << 17, longest=8192)
SMOKE = replace(EXTENT, smoke=True)
ABOUT = {"model": "small", "seed": 0}
COSTS: dict[str, Callable[[Point], float]] = {
    "attn_decode": device.decode_seconds,
    "attn_prefill": device.prefill_seconds,
    "attn_mixed": device.fused_seconds,
    "gemm": lambda point: device.gemm_seconds(point.n, point.k, point.m),
    "lm_head": lambda point: device.gemm_seconds(point.n, point.k, point.m),
}
OPS: dict[str, Any] = {"launch": "launch", "kv_write": "kv_write", "sampler": "sampler", "lm_head": "lm_head"}


class SyntheticBench:
    """A device that takes as long as its cost function says, by a clock of its own."""

    def __init__(self, overhead: float = 0.0) -> None:
        self.nanoseconds = 0.0
        self.overhead = overhead
        self.prepared: list[str] = []
        self.drift = lambda: 1.0
        self.failing: Callable[[str], BaseException | None] = lambda name: None

    def check(self, planned: Planned) -> None:
        assert not self.prepared, "checked after something was timed"

    def prepare(self, planned: Planned) -> Ready:
        failure = self.failing(planned.id)
        if failure is not None:
            raise failure
        self.prepared.append(planned.id)
        self.nanoseconds += self.overhead * 1e9
        point = bare_point(planned)
        nanoseconds = COSTS.get(point.op, small_seconds)(point) * 1e9 * self.drift()

        def call(index: int) -> None:
            self.nanoseconds += nanoseconds

        return Ready(point, call, 2)


def small_seconds(point: Point) -> float:
    return 2e-6 + 5e-9 * point.m


def bare_point(planned: Planned) -> Point:
    if planned.case is not None:
        return case_point(planned, planned.case)
    n, k = gemm_shapes(SMALL).get(planned.name, (0, 0))
    op = OPS.get(planned.name, "gemm" if n else "elementwise")
    held_out = planned.held_out
    return Point(
        id=planned.id,
        set=planned.set,
        op=op,
        ns=(),
        name=planned.name,
        m=planned.m,
        n=n,
        k=k,
        held_out=held_out,
    )


def session(
    path: Path, bench: SyntheticBench, extent: Extent = SMOKE, resume: bool = False, **changed: Any
) -> Session:
    partial = PartialFile(path / "p.json")
    partial.start(ABOUT, resume)
    given: dict[str, Any] = {"budget": 1e9, "repeats": 3, "grid": make_grid(extent)}
    given |= {"timer": CpuTimer(lambda: bench.nanoseconds)} | changed
    return Session(bench=bench, partial=partial, clock=lambda: bench.nanoseconds / 1e9, **given)
