"""Timing on the host's clock and on a made-up one, and when repeating ends."""

from __future__ import annotations

import pytest

from kvsim.calibration.timer import LONGEST_NS, MOST_REPEATS, CpuTimer, is_settled


class Clock:
    """Counts nanoseconds that calls say they take."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now


def test_every_call_of_every_round_is_timed_and_the_first_round_is_not() -> None:
    clock, seen = Clock(), list[int]()

    def call(index: int) -> None:
        seen.append(index)
        clock.now += 1000 if len(seen) <= 4 else 100 + index

    timing = CpuTimer(clock.read).measure(call, 4, repeats=5)

    assert timing.ns == (101.5,) * 5
    assert seen == [0, 1, 2, 3] * 6
    assert (timing.mode, timing.calls, timing.sm_mhz) == ("eager", 4, None)


def test_a_steady_call_is_repeated_no_more_than_asked() -> None:
    assert is_settled([100.0] * 20, 1, 20)
    assert not is_settled([100.0] * 19, 1, 20)


def test_a_noisy_call_is_repeated_until_the_median_is_known() -> None:
    noisy = [100.0, 120.0] * 10

    assert not is_settled(noisy, 1, 20)
    assert is_settled(noisy * 10, 1, 20)


def test_repeating_ends_when_the_time_is_used_up() -> None:
    noisy = [100.0, 120.0] * 10

    assert is_settled(noisy, int(LONGEST_NS), 20)
    assert len(noisy * 10) == MOST_REPEATS


def test_a_clock_that_does_not_tick_still_gives_times_above_zero() -> None:
    assert CpuTimer(lambda: 7).measure(lambda index: None, 2, repeats=3).ns == (1.0, 1.0, 1.0)


def test_the_hosts_clock_measures_something() -> None:
    timing = CpuTimer().measure(lambda index: sum(range(100)), 2, repeats=3)

    assert len(timing.ns) >= 3
    assert min(timing.ns) >= 1


@pytest.mark.gpu
def test_a_graph_is_replayed_and_long_calls_are_timed_one_by_one() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    from kvsim.calibration.timer import CudaTimer

    timer = CudaTimer(torch.device("cuda", 0))
    short, long = (torch.randn(size, device="cuda") for size in (1 << 10, 1 << 29))

    assert timer.measure(lambda index: short.mul_(1), 8).mode == "graph"
    assert timer.measure(lambda index: long.mul_(1), 8)[1:3] == ("eager", 1)
