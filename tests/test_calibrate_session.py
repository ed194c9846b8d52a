"""A calibration on a device whose cost is known: recovery, drift, gate, budget, resume and Ctrl-C, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_tables import SMALL
from synthetic_bench import ABOUT, EXTENT, SMOKE, SyntheticBench, session

from kvsim.calibration.features import decodes_of
from kvsim.calibration.fits import fit_points
from kvsim.calibration.grid import Planned, make_grid
from kvsim.calibration.numeric_check import BackendRefusedError
from kvsim.calibration.partial_file import PartialFile
from kvsim.calibration.peak_gate import Peak, bytes_read
from kvsim.calibration.points import Point
from kvsim.calibration.profile import Profile
from kvsim.calibration.session import Outcome, Progress, gated
from kvsim.errors import InputError


def ids(outcome: Outcome) -> list[str]:
    return sorted(point.id for point in outcome.points)


def test_a_known_cost_is_recovered_within_a_percent(tmp_path: Path) -> None:
    outcome = session(tmp_path, SyntheticBench(), EXTENT).run()

    profile = Profile.build(SMALL, outcome.points, draws=1)

    assert outcome.warnings == ()
    assert {"attn_decode paged page=16 kv=bf16", "gemm qkv", "step decode"} <= set(profile.errors)
    for name in ("attn_decode paged page=16 kv=bf16", "gemm qkv", "gemm down", "lm_head", "step decode"):
        assert profile.errors[name].mean < 0.01, name


def test_the_hull_is_that_of_the_decodes_in_the_fit(tmp_path: Path) -> None:
    outcome = session(tmp_path, SyntheticBench(), EXTENT).run()
    kind = next(
        kind
        for kind in fit_points(outcome.points).attention
        if kind.words == "attn_decode paged page=16 kv=bf16"
    )
    hull = fit_points(outcome.points).attention[kind].fit.affine.hull
    inside = [
        decodes_of(point)[:2]
        for point in outcome.points
        if point.op == "attn_decode"
        and (point.layout, point.page, point.window) == ("paged", 16, None)
        and not point.held_out
    ]

    assert all(hull.holds(*each) for each in inside)
    assert set(hull.corners) <= set(inside)
    assert not hull.holds(512, 512 * 4096)


def test_all_points_are_timed_once_in_an_order_unlike_the_grids(tmp_path: Path) -> None:
    bench = SyntheticBench()
    grid = make_grid(SMOKE)

    outcome = session(tmp_path, bench).run()

    assert ids(outcome) == sorted(planned.id for planned in grid)
    assert outcome.dropped == 0
    assert [point.id for point in outcome.points] != [planned.id for planned in grid]
    assert all(len(point.ns) >= 3 for point in outcome.points)


def test_a_steady_device_has_no_drift_and_its_sentinels_are_kept(tmp_path: Path) -> None:
    outcome = session(tmp_path, SyntheticBench()).run()
    sentinels: list[Any] = list(outcome.sentinels)

    assert {each["after"] for each in sentinels} >= {0, 50, len(outcome.points)}
    assert len({each["id"] for each in sentinels}) == 2
    assert all(abs(each["drift"]) < 1e-9 for each in sentinels)
    assert outcome.warnings == ()


@pytest.mark.parametrize(("change", "warned"), [(1.029, False), (1.031, True), (0.969, True)])
def test_drift_of_more_than_three_percent_is_warned_of(tmp_path: Path, change: float, warned: bool) -> None:
    bench = SyntheticBench()
    bench.drift = lambda: change if len(bench.prepared) > 40 else 1.0

    outcome = session(tmp_path, bench).run()

    assert any(line.startswith("drift: ") for line in outcome.warnings) == warned
    assert any(abs(each["drift"] - (change - 1)) < 1e-6 for each in outcome.sentinels)  # type: ignore[index]


def test_a_point_above_the_peak_is_rejected_and_named(tmp_path: Path) -> None:
    plain = session(tmp_path, SyntheticBench())
    plain.peak = Peak(bandwidth=2e9, flops=1e15)

    outcome = plain.run()

    rejected = [point for point in outcome.points if "above-peak" in point.flags]
    assert 0 < len(rejected) < len(outcome.points)
    assert all("rejected" in point.flags and bytes_read(point) > 2e9 * point.seconds for point in rejected)
    assert outcome.warnings[-1].startswith(f"{len(rejected)} points are flagged above-peak")


def test_shared_tokens_count_once_against_the_peak() -> None:
    shared = Point(
        id="a", set="D5", op="attn_decode", ns=(1000.0,), q=(1, 1), kv=(64, 64), heads=(8, 2, 32), layout="shared",
        page=16, shared_tokens=48,
    )  # fmt: skip
    token = 2 * 2 * 32 * 2

    assert gated([shared], Peak(80 * token * 1e6, 1e18))[0].flags == ()
    assert gated([shared], Peak(79 * token * 1e6, 1e18))[0].flags == ("above-peak", "rejected")


def test_the_gate_leaves_a_warm_point_warm() -> None:
    warm = Point(id="a", set="G", op="gemm", ns=(1e6,), name="o", m=1, n=256, k=256, cold=False)

    assert gated([warm], Peak(1e12, 1e15)) == [warm]


def test_a_budget_drops_the_least_needed_and_says_how_many(tmp_path: Path) -> None:
    grid = make_grid(SMOKE)
    half = len(grid) // 2

    outcome = session(tmp_path, SyntheticBench(overhead=1.0), budget=float(half)).run()

    ranks = [number for number, planned in enumerate(grid) if planned.id in set(ids(outcome))]
    assert 0.8 * half <= len(ranks) <= half
    assert max(ranks[:-3]) < half + 3
    assert outcome.dropped == len(grid) - len(ranks)
    assert outcome.warnings[-1].startswith(f"{outcome.dropped} of {len(grid)} points were not timed: ")


def test_progress_counts_up_and_its_eta_falls(tmp_path: Path) -> None:
    seen: list[Progress] = []

    session(tmp_path, SyntheticBench(overhead=1.0), report=seen.append).run()

    timed = [each for each in seen if each.what != "checking kernels"]
    assert [each.done for each in timed] == list(range(len(make_grid(SMOKE))))
    assert timed[-1].eta_seconds < timed[10].eta_seconds


def test_ctrl_c_keeps_what_was_measured_and_resume_goes_on(tmp_path: Path) -> None:
    bench = SyntheticBench()
    bench.failing = lambda name: KeyboardInterrupt() if len(bench.prepared) == 30 else None
    first = session(tmp_path, bench)
    with pytest.raises(KeyboardInterrupt):
        first.run()

    again = SyntheticBench()
    outcome = session(tmp_path, again, resume=True).run()

    assert (
        len(first.partial.points) == 26
    )  # four of the 30 were sentinels: once to warm up, once for the record
    assert not {point.id for point in first.partial.points} & set(again.prepared[6:-2])
    assert ids(outcome) == sorted(planned.id for planned in make_grid(SMOKE))


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = session(tmp_path, SyntheticBench()).partial.path
    with path.open("a") as stream:
        stream.write('{"point": {"id": "D1')

    outcome = session(tmp_path, SyntheticBench(), resume=True).run()

    assert len(outcome.points) == len(make_grid(SMOKE))
    assert len(session(tmp_path, SyntheticBench(), resume=True).partial.points) == len(outcome.points)


@pytest.mark.parametrize(
    ("resume", "about", "words"),
    [
        (False, ABOUT, "holds an earlier calibration: go on with --resume"),
        (True, ABOUT | {"seed": 1}, "seed is 0 there and 1 now"),
    ],
)
def test_a_partial_file_is_not_overwritten_nor_mixed(
    tmp_path: Path, resume: bool, about: dict[str, object], words: str
) -> None:
    earlier = PartialFile(tmp_path / "p.json")
    earlier.start(ABOUT, False)
    earlier.add(Point(id="a", set="E", op="launch", ns=(1.0,), name="kernel", m=1))

    with pytest.raises(InputError, match=words):
        PartialFile(tmp_path / "p.json").start(about, resume)


def test_a_partial_file_without_points_is_begun_anew(tmp_path: Path) -> None:
    PartialFile(tmp_path / "p.json").start(ABOUT, False)
    PartialFile(tmp_path / "p.json").start(ABOUT | {"seed": 1}, False)

    resumed = PartialFile(tmp_path / "p.json")
    resumed.start(ABOUT | {"seed": 1}, True)
    assert resumed.points == []


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing to resume: there is no .*p\.json\.partial"):
        PartialFile(tmp_path / "p.json").start(ABOUT, True)


def test_one_point_that_fails_is_named_and_the_rest_is_timed(tmp_path: Path) -> None:
    bench = SyntheticBench()
    bench.failing = lambda name: RuntimeError("out of memory\nand more") if name == "P1-002" else None

    outcome = session(tmp_path, bench).run()

    assert outcome.dropped == 1
    assert outcome.warnings[0] == "P1-002 could not be timed: RuntimeError: out of memory"


def test_a_broken_device_ends_the_calibration(tmp_path: Path) -> None:
    bench = SyntheticBench()
    bench.failing = lambda name: RuntimeError("illegal access") if len(bench.prepared) > 20 else None

    with pytest.raises(InputError, match=r"5 points in a row failed; .* illegal access"):
        session(tmp_path, bench).run()


def test_a_kernel_that_fails_its_check_stops_before_anything_is_timed(tmp_path: Path) -> None:
    class Wrong(SyntheticBench):
        def check(self, planned: Planned) -> None:
            raise BackendRefusedError("triton refused")

    bench = Wrong()

    with pytest.raises(BackendRefusedError):
        session(tmp_path, bench).run()
    assert bench.prepared == []
