"""Points timed at a slow clock: told by the readings, timed again at the end, and both times kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_bench import SMOKE, SyntheticBench, session

from kvsim.calibration.grid import make_grid
from kvsim.calibration.points import Point
from kvsim.calibration.points_file import point_from_json, point_to_json
from kvsim.calibration.readings import Pair, Readings
from kvsim.calibration.slow_clock import flag_clocks, normal_clock, slow_points, with_both
from kvsim.calibration.timer import Call, CpuTimer, Timing

NORMAL, SLOW = 1980.0, 1500.0


class ClockedTimer:
    """The synthetic device's timer, with an SM clock that it tells and runs by."""

    def __init__(self, bench: SyntheticBench, clock: Callable[[str, int], float | None]) -> None:
        self._bench, self._clock = bench, clock
        self._timer = CpuTimer(lambda: bench.nanoseconds)

    def measure(self, call: Call, calls: int, repeats: int = 3, eager: bool = False) -> Timing:
        name = self._bench.prepared[-1]
        mhz = self._clock(name, self._bench.prepared.count(name))
        found = self._timer.measure(call, calls, repeats)
        if mhz is None:
            return found
        ns = tuple(each * NORMAL / mhz for each in found.ns)
        return found._replace(ns=ns, readings=Readings((mhz, mhz), None, (40.0, 41.0), None))


def clocked(path: Path, clock: Callable[[str, int], float | None], **changed: Any) -> Any:
    bench = SyntheticBench(overhead=1.0)
    return session(path, bench, timer=ClockedTimer(bench, clock), **changed)


def point(name: str, sm_mhz: Pair | None, ns: float = 1.0) -> Point:
    return Point(id=name, set="G", op="gemm", ns=(ns,), m=1, name="o", sm_mhz=sm_mhz)


def test_a_slow_clock_is_a_tenth_under_the_median_of_the_run() -> None:
    clocks = [(1980.0, 1980.0)] * 3 + [(1980.0, 1781.0), (1700.0, 1980.0)]
    points = [point(str(number), mhz) for number, mhz in enumerate(clocks)]

    assert normal_clock(points) == 1980
    assert [each.flags for each in flag_clocks(points)] == [()] * 3 + [("clock",)] * 2
    assert [each.id for each in slow_points(points)] == ["3", "4"]


def test_without_readings_no_point_is_slow() -> None:
    points = [point("a", None), point("b", None)]

    assert (normal_clock(points), slow_points(points), flag_clocks(points)) == (None, [], points)


def test_of_two_times_the_one_at_the_faster_clock_is_taken() -> None:
    slow, fast = point("a", (SLOW, SLOW), 9.0), point("a", (NORMAL, NORMAL), 5.0)

    for first, again in ((slow, fast), (fast, slow)):
        both = with_both(first, again)
        assert (both.ns, both.sm_mhz) == (fast.ns, fast.sm_mhz)
        assert (both.slow_ns, both.slow_sm_mhz) == (slow.ns, slow.sm_mhz)
    assert point_from_json(json.loads(json.dumps(point_to_json(both))), "f") == both


def test_slow_points_are_timed_again_at_the_end_and_both_times_stay(tmp_path: Path) -> None:
    slow = {"P1-001", "G-003"}
    outcome = clocked(tmp_path, lambda name, turn: SLOW if name in slow and turn == 1 else NORMAL).run()

    again = [each for each in outcome.points if each.slow_ns]
    assert {each.id for each in again} == slow
    for each in again:
        assert each.sm_mhz == (NORMAL, NORMAL)
        assert each.slow_sm_mhz == (SLOW, SLOW)
        assert each.slow_ns[0] == pytest.approx(each.ns[0] * NORMAL / SLOW)
        assert each.temperature_c == (40.0, 41.0)
        assert (each.memory_mhz, each.power_w, each.flags) == (None, None, ())
    assert outcome.warnings == (
        "2 of 2 points were timed again: their SM clock was under 90% of the median, 1980 MHz",
    )


def test_a_clock_that_stays_slow_is_flagged(tmp_path: Path) -> None:
    outcome = clocked(tmp_path, lambda name, turn: SLOW if name == "P1-001" else NORMAL).run()

    (flagged,) = [each for each in outcome.points if "clock" in each.flags]
    assert flagged.id == "P1-001"
    assert len(flagged.slow_ns) >= 3
    assert outcome.warnings[-1] == "1 points are flagged clock: P1-001"


def test_the_budget_keeps_room_for_slow_points_and_says_how_many_it_reached(tmp_path: Path) -> None:
    grid = make_grid(SMOKE)
    half = len(grid) / 2
    outcome = clocked(
        tmp_path, lambda name, turn: SLOW if int(name[-1]) % 3 == 0 and turn == 1 else NORMAL, budget=half
    ).run()

    again = sum(bool(each.slow_ns) for each in outcome.points)
    assert 0.06 * half < again <= 0.11 * half
    words = next(line for line in outcome.warnings if "timed again" in line)
    assert words.startswith(f"{again} of ")
    assert outcome.dropped > len(grid) - half


def test_a_resumed_calibration_times_slow_points_again_once(tmp_path: Path) -> None:
    def clock(name: str, turn: int) -> float:
        return SLOW if name == "P1-001" else NORMAL

    clocked(tmp_path, clock).run()
    again = clocked(tmp_path, clock, resume=True)
    outcome = again.run()

    assert len(outcome.points) == len({each.id for each in outcome.points}) == len(make_grid(SMOKE))
    assert "P1-001" not in again.bench.prepared
    assert sum(bool(each.slow_ns) for each in outcome.points) == 1


def test_readings_that_are_missing_are_left_out_of_the_file_and_zero_is_refused() -> None:
    record = point_to_json(point("a", None))
    assert not {"sm_mhz", "memory_mhz", "temperature_c", "power_w", "slow_ns"} & set(record)
    assert point_from_json({**record, "power_w": None}, "f").power_w is None

    for name in ("sm_mhz", "memory_mhz", "temperature_c", "power_w", "slow_sm_mhz"):
        with pytest.raises(ValueError, match=f"{name} must be null or two numbers > 0"):
            point_from_json({**record, name: [0, 1]}, "f")
