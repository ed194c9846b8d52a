"""Fits against a device whose cost is known: what they recover, and what they promise where nothing was timed."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic_device as device
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.calibration.attention_choice import choose
from kvsim.calibration.attention_kinds import Kind, fit_attention
from kvsim.calibration.curve import MOST_NODES, fit_curve
from kvsim.calibration.features import Chunks, chunks_of, decodes_of
from kvsim.calibration.fit_attention import DecodeFit, MixedFit, PrefillFit
from kvsim.calibration.fit_sizes import fit_line, fit_product
from kvsim.calibration.hull import hull_of
from kvsim.calibration.monotone import make_monotone
from kvsim.calibration.nnls import nnls
from kvsim.calibration.points import Point
from kvsim.calibration.residual_table import CLIP, Table, fit_table, octave_nodes
from kvsim.calibration.roofline_fit import padded
from kvsim.errors import InputError

WITHIN = 0.01
ROUNDING = 1 - 1e-5
"""Fits keep seven digits, of a table and a formula that may nearly cancel."""


def times(points: list[Point]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([point.seconds for point in points])


def decode_fit(points: list[Point]) -> DecodeFit:
    return DecodeFit.of([decodes_of(point) for point in points], times(points))


def prefill_fit(points: list[Point]) -> PrefillFit:
    return PrefillFit.of([chunks_of(point) for point in points], times(points))


@given(st.integers(1, 512), st.integers(1, 20_000))
def test_decode_cost_is_recovered_inside_and_outside_the_grid(count: int, length: int) -> None:
    fit = DECODE
    point = device.attention("attn_decode", (1,) * count, (length,) * count)

    assert fit.at(*decodes_of(point)) == pytest.approx(point.seconds, rel=WITHIN)
    assert fit.line(count).at(count * length) == pytest.approx(fit.at(count, count * length))


@given(st.integers(16, 4096), st.integers(0, 8192))
def test_prefill_cost_is_recovered_with_and_without_cached_tokens(tokens: int, cached: int) -> None:
    point = device.attention("attn_prefill", (tokens,), (tokens + cached,))

    assert PREFILL.at(chunks_of(point)) == pytest.approx(point.seconds, rel=WITHIN)


@given(st.integers(16, 2048), st.integers(1, 64), st.integers(16, 4096))
def test_fused_cost_is_recovered_and_not_the_sum_of_its_parts(tokens: int, count: int, length: int) -> None:
    point = device.attention("attn_mixed", (tokens, *(1,) * count), (tokens, *(length,) * count))

    parts = PREFILL.at(chunks_of(point)) + DECODE.at(*decodes_of(point))
    found = MIXED.at(chunks_of(point), decodes_of(point))
    assert found == pytest.approx(point.seconds, rel=WITHIN)
    assert found == pytest.approx(1.5 * parts, rel=2 * WITHIN)


@given(st.integers(1, 8192))
def test_product_cost_is_recovered_in_padded_rows(rows: int) -> None:
    assert PRODUCT.at(padded(rows)) == pytest.approx(device.gemm_seconds(384, 256, rows), rel=WITHIN)


@given(st.integers(1, 100_000))
def test_a_line_in_tokens_is_recovered(rows: int) -> None:
    assert LINE.at(rows) == pytest.approx(2e-6 + 5e-9 * rows, rel=WITHIN)


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_five_percent_a_replay_is_averaged_out(seed: int) -> None:
    points = device.decodes()
    fit = decode_fit(device.noisy(points, 0.05, seed))

    misses = [abs(fit.at(*decodes_of(point)) / point.seconds - 1) for point in points]
    assert float(np.mean(misses)) < 0.02


def test_a_staircase_in_batch_goes_into_the_table() -> None:
    def stairs(point: Point) -> float:
        return device.decode_seconds(point) * (1.4 if len(point.q) > 8 else 1.0)

    points = device.decodes()
    calls = [decodes_of(point) for point in points]
    fit = DecodeFit.of(calls, np.array([stairs(point) for point in points]))
    misses = [abs(fit.at(*call) / stairs(point) - 1) for call, point in zip(calls, points, strict=True)]

    assert max(misses) < 0.02


def test_cached_prefix_is_read_at_the_speed_of_decodes_where_no_chunk_had_one() -> None:
    points = [*device.decodes(), *device.chunks(cached=(0,))]
    prefill = fit_attention(points)[Kind("attn_prefill", page=16)].fit

    found = dict(zip(PrefillFit.terms, prefill.affine.coefficients, strict=True))
    assert found["context"] == pytest.approx(1e-9, rel=WITHIN)


def test_beyond_the_table_the_coefficients_alone_decide() -> None:
    points = device.noisy(device.decodes(), 0.3)
    fit = decode_fit(points)
    _, per_sequence, per_token, _ = fit.affine.coefficients

    assert fit.at(64, 5e6) - fit.at(64, 4e6) == pytest.approx(per_token * 1e6)
    assert fit.at(300, 1e4) - fit.at(200, 1e4) == pytest.approx(per_sequence * 100)


def test_nodes_that_no_point_touches_stay_near_the_formula() -> None:
    axis = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    places = np.array([[1.0], [2.0]])
    nodes = np.array(axis)

    table = fit_table((axis,), places, 2 * places[:, 0], places[:, 0], nodes)

    assert (table.values / nodes)[:2] == pytest.approx(1.0, abs=0.02)
    assert (table.values / nodes)[2:] == pytest.approx(CLIP)


positive = st.floats(1e-6, 1e-1)


@settings(max_examples=25)
@given(st.lists(positive, min_size=35, max_size=35), st.data())
def test_decode_cost_never_falls_whatever_was_measured(seconds: list[float], data: st.DataObject) -> None:
    fit = DecodeFit.of([decodes_of(point) for point in device.decodes()], np.array(seconds))
    count, more = data.draw(st.integers(1, 300)), data.draw(st.integers(0, 100))
    context, longer = data.draw(st.integers(1, 10**6)), data.draw(st.integers(0, 10**6))

    before = fit.at(count, context)
    assert fit.at(count + more, context + longer) >= before * ROUNDING
    assert fit.line(count).at(context + longer) >= fit.line(count).at(context) * ROUNDING


@settings(max_examples=25)
@given(st.lists(positive, min_size=24, max_size=24), st.data())
def test_a_longer_or_deeper_chunk_never_takes_less(seconds: list[float], data: st.DataObject) -> None:
    fit = PrefillFit.of([chunks_of(point) for point in device.chunks()], np.array(seconds))
    tokens, cached = data.draw(st.integers(2, 4000)), data.draw(st.integers(0, 4000))
    longer, deeper = data.draw(st.integers(0, 500)), data.draw(st.integers(0, 500))

    def seconds_of(q: int, before: int) -> float:
        return fit.at(Chunks(1, q, q + before, q * before + q * (q + 1) // 2))

    assert seconds_of(tokens + longer, cached + deeper) >= seconds_of(tokens, cached) * ROUNDING


@settings(max_examples=25)
@given(st.lists(positive, min_size=2, max_size=40), st.lists(st.integers(1, 9999), min_size=2, max_size=2))
def test_a_curve_never_falls(seconds: list[float], sizes: list[int]) -> None:
    measured = np.arange(1, len(seconds) + 1, dtype=np.float64) ** 2
    curve = fit_curve(measured, np.array(seconds), lambda size: 1e-3 + 1e-6 * size)

    assert curve.at(max(sizes)) >= curve.at(min(sizes))


def test_a_curve_keeps_few_nodes_and_meets_them() -> None:
    sizes = np.arange(1.0, 401.0)
    seconds = 1e-6 * (1 + np.floor(sizes / 16))
    curve = fit_curve(sizes, seconds, lambda size: 1e-6 + 6e-8 * size)

    assert len(curve.nodes) <= 2 * MOST_NODES
    assert [curve.at(size) for size in (1.0, 400.0)] == pytest.approx([1e-6, 26e-6])


def test_hull_holds_what_was_measured_and_nothing_beyond() -> None:
    points = [(1, 16), (1, 4096), (64, 1024), (64, 262_144), (8, 128), (8, 30_000)]
    hull = hull_of(*np.array(points, dtype=np.float64).T)

    assert all(hull.holds(*point) for point in points)
    assert hull.reach(64) == pytest.approx((1024, 262_144))
    assert not any(hull.holds(*place) for place in ((65, 2048), (1, 15), (1, 4097), (64, 1000), (0.9, 100)))
    assert hull.reach(8) == pytest.approx((16 * 64**0.5, 4096 * 64**0.5))


def test_hull_of_one_point_is_that_point() -> None:
    hull = hull_of(np.array([4.0]), np.array([100.0]))

    assert hull.holds(4, 100)
    assert not hull.holds(4, 101)
    assert not hull.holds(5, 100)


def test_table_is_multilinear_between_nodes_and_constant_beyond() -> None:
    table = Table(((1.0, 3.0), (10.0, 20.0)), np.array([[0.0, 1.0], [2.0, 5.0]]))

    assert table.at(2, 15) == pytest.approx((0 + 1 + 2 + 5) / 4)
    assert table.at(1.5, 20) == pytest.approx(1 + 0.25 * 4)
    assert table.at(0, 5) == 0.0
    assert table.at(9, 99) == 5.0


def test_nodes_are_octaves_between_the_ends() -> None:
    assert octave_nodes(np.array([3.0, 40.0])) == (3.0, 4.0, 8.0, 16.0, 32.0, 40.0)
    assert octave_nodes(np.array([7.0, 7.0])) == (7.0,)


@given(st.lists(st.lists(positive, min_size=4, max_size=4), min_size=3, max_size=3))
def test_monotone_grid_falls_along_no_axis_and_keeps_what_does_not(rows: list[list[float]]) -> None:
    grid = make_monotone(np.array(rows))

    assert (np.diff(grid, axis=0) >= 0).all()
    assert (np.diff(grid, axis=1) >= 0).all()
    assert make_monotone(grid) == pytest.approx(grid)


@given(st.lists(st.floats(0, 5), min_size=3, max_size=3), st.integers(0, 99))
def test_nnls_finds_coefficients_that_are_not_negative(truth: list[float], seed: int) -> None:
    matrix = np.random.default_rng(seed).uniform(0.1, 1, (20, 3)) * [1, 1e3, 1e9]
    found = nnls(matrix, matrix @ np.array(truth))

    assert (found >= 0).all()
    assert matrix @ found == pytest.approx(matrix @ np.array(truth), rel=1e-6, abs=1e-9)


@given(st.integers(0, 999))
def test_nnls_meets_the_conditions_of_the_best(seed: int) -> None:
    generator = np.random.default_rng(seed)
    matrix, target = generator.normal(size=(12, 4)), generator.normal(size=12)

    found = nnls(matrix, target)
    slope = matrix.T @ (matrix @ found - target)
    assert (slope > -1e-6).all()
    assert np.abs(slope * found).max() < 1e-6


def slower(points: list[Point], factor: float) -> list[Point]:
    return [device.replace(point, ns=(point.ns[0] * factor,)) for point in points]


def test_a_page_size_with_few_points_is_a_factor_on_the_main_one() -> None:
    fits = fit_attention([*device.decodes(), *slower(PAGE_128[::5], 1.25)])

    found = fits[Kind("attn_decode", page=128)]
    assert (found.of.page, found.factor) == (16, pytest.approx(1.25, rel=WITHIN))


def test_shared_pages_are_a_discount_a_token() -> None:
    shared = [
        device.replace(
            point, id=f"s{number}", layout="shared", shared_tokens=100, ns=(point.ns[0] - 100 * 0.4,)
        )
        for number, point in enumerate(device.decodes())
    ]
    found = fit_attention([*device.decodes(), *shared])[Kind("attn_decode", "shared", 16)]

    assert found.discount == pytest.approx(0.4e-9, rel=WITHIN)
    assert found.seconds(shared[7]) == pytest.approx(shared[7].seconds, rel=WITHIN)


WANTED: list[tuple[Kind, int | None, str]] = [
    (Kind("attn_decode", page=16), 16, ""),
    (Kind("attn_decode", page=100), 128, "pages of 100 was not timed: priced as pages of 128"),
    (Kind("attn_decode", "contiguous"), 16, "contiguous memory was not timed: priced as paged"),
    (Kind("attn_decode", page=16, window=64), 16, "a window of 64 was not timed"),
    (Kind("attn_decode", page=16, kv_dtype="fp16"), 16, ""),
]


@pytest.mark.parametrize(("wanted", "page", "said"), WANTED)
def test_the_nearest_kind_is_chosen_and_said(wanted: Kind, page: int, said: str) -> None:
    kinds = fit_attention([*device.decodes(), *PAGE_128])

    fitted, notes = choose(kinds, wanted)

    assert fitted.of.page == page
    assert " ".join(notes).count(said) == (1 if said else len(" ".join(notes)) + 1)


def test_a_kv_dtype_that_was_not_timed_is_refused() -> None:
    with pytest.raises(InputError, match="no attn_decode points over a KV cache of fp8; there is bf16"):
        choose(fit_attention(device.decodes()), Kind("attn_decode", kv_dtype="fp8"))


PAGE_128 = [device.replace(point, id=f"{point.id}p", page=128) for point in device.decodes()[5:]]
DECODE = decode_fit(device.decodes())
PREFILL = prefill_fit(device.chunks())
MIXED = MixedFit.of(
    [(chunks_of(point), decodes_of(point)) for point in device.mixed()], times(device.mixed())
)
PRODUCT = fit_product([point for point in device.others() if point.name == "qkv"])
LINE = fit_line(
    [point.m for point in device.others() if point.name == "norm"],
    [point for point in device.others() if point.name == "norm"],
)
