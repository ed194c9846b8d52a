"""Clocks for kernels: CUDA events around graph replays, the host's clock on the CPU, or one that a test injects."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from kvsim.calibration.readings import Pair, Read, Reading, Readings

if TYPE_CHECKING:
    import torch

Call = Callable[[int], object]
LEAST_REPEATS = 20
MOST_REPEATS = 200
SETTLED = 0.005
"""Relative standard error of the median at which repeating ends."""
LONGEST_NS = 60e6
"""Device time spent on a point after which no more than LEAST_REPEATS are made."""
EAGER_ABOVE_NS = 200e3
"""Calls longer than this hide their launch, so each is timed by an event pair of its own."""
WARM_UPS = 3
NOTHING_READ = Readings()


class Timing(NamedTuple):
    """Raw times of one call."""

    ns: tuple[float, ...]
    """One a replay: its time over its calls."""
    mode: Literal["graph", "eager"]
    calls: int
    """Calls in one replay."""
    readings: Readings = NOTHING_READ
    """Clocks, temperature and power before and after, where they can be read."""

    @property
    def sm_mhz(self) -> Pair | None:
        """Return the SM clock before and after."""
        return self.readings.sm_mhz


class Timer(Protocol):
    """Measures what a call takes."""

    def measure(self, call: Call, calls: int, repeats: int = LEAST_REPEATS, eager: bool = False) -> Timing:
        """Time `call(0) … call(calls - 1)` at least `repeats` times, once warm.

        `eager` asks for launches one by one, all in one interval: what it costs to launch.
        """


def is_settled(ns: Sequence[float], calls: int, repeats: int, longest_ns: float = LONGEST_NS) -> bool:
    """Tell whether to stop: the median is known to 0.5 %, or 60 ms or MOST_REPEATS are used up.

    The standard error of a median is about 1.25 · σ / √n.
    """
    if len(ns) < repeats:
        return False
    if len(ns) >= MOST_REPEATS or sum(ns) * calls >= longest_ns:
        return True
    return bool(1.2533 * np.std(ns) / len(ns) ** 0.5 < SETTLED * np.median(ns))


class CpuTimer:
    """Times calls with a clock of the host, by default the most exact one."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter_ns, longest_ns: float = LONGEST_NS
    ) -> None:
        """Read nanoseconds from `clock`, which a test may replace by that of a synthetic device."""
        self._clock = clock
        self._longest_ns = longest_ns

    def measure(self, call: Call, calls: int, repeats: int = LEAST_REPEATS, eager: bool = False) -> Timing:
        """Run every call once to warm up, then time rounds of all of them."""
        for index in range(calls):
            call(index)
        found: list[float] = []
        while not is_settled(found, calls, repeats, self._longest_ns):
            start = self._clock()
            for index in range(calls):
                call(index)
            found.append(max(1.0, (self._clock() - start) / calls))  # a clock may tick too seldom
        return Timing(tuple(found), "eager", calls)


class CudaTimer:
    """Times calls with events on the current stream: replays of a CUDA graph, or calls one by one when long."""

    def __init__(self, device: torch.device, read: Read = Reading) -> None:
        """Time on this device, and `read` its sensors; nothing of its settings is changed."""
        self._device = device
        self._read = read

    def measure(self, call: Call, calls: int, repeats: int = LEAST_REPEATS, eager: bool = False) -> Timing:
        """Capture a graph of all calls and time its replays; above 200 µs a call, time calls one by one."""
        import torch

        mode: Literal["graph", "eager"] = "eager"
        with torch.cuda.device(self._device):
            self._warm_up(call, calls)
            before = self._read()
            if eager:
                found = self._repeat(lambda _: _each(call, calls), calls, repeats)
            elif self._interval(lambda: call(0)) > EAGER_ABOVE_NS:
                places, calls = calls, 1
                found = self._repeat(lambda turn: call(turn % places), 1, repeats)
            else:
                mode, replay = "graph", self._captured(call, calls)
                found = self._repeat(lambda _: replay(), calls, repeats)
            after = self._read()
        return Timing(tuple(found), mode, calls, Readings.of(before, after))

    def _warm_up(self, call: Call, calls: int) -> None:
        """Compile, create handles and reach the working clock, on a side stream as capture asks for."""
        import torch

        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for index in range(WARM_UPS):
                call(index % calls)
        torch.cuda.current_stream(self._device).wait_stream(side)
        torch.cuda.synchronize(self._device)

    def _captured(self, call: Call, calls: int) -> Callable[[], object]:
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            _each(call, calls)
        for _ in range(WARM_UPS):
            graph.replay()
        torch.cuda.synchronize(self._device)
        replay: Callable[[], object] = graph.replay
        return replay

    def _repeat(self, run: Callable[[int], object], calls: int, repeats: int) -> list[float]:
        """Time batches of `repeats` runs, without waiting between them, until the median is settled."""
        import torch

        found: list[float] = []
        while not is_settled(found, calls, repeats):
            pairs = [_events() for _ in range(repeats)]
            for turn, (start, end) in enumerate(pairs):
                start.record()
                run(len(found) + turn)
                end.record()
            torch.cuda.synchronize(self._device)
            found += [max(1.0, start.elapsed_time(end) * 1e6 / calls) for start, end in pairs]
        return found

    def _interval(self, run: Callable[[], object]) -> float:
        import torch

        start, end = _events()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(self._device)
        return float(start.elapsed_time(end)) * 1e6


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    import torch

    make: Callable[..., torch.cuda.Event] = torch.cuda.Event
    return make(enable_timing=True), make(enable_timing=True)


def _each(call: Call, calls: int) -> None:
    for index in range(calls):
        call(index)
