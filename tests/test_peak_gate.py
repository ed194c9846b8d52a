"""What a kernel must move and compute at least, counted as a slow loop would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.calibration.peak_gate import CLOCK_HEADROOM, Peak, attended, bytes_read, gate_points, operations
from kvsim.calibration.points import Point

PEAK = Peak(1e12, 100e12, 1_000_000)


def product(seconds: float, m: int = 1, n: int = 4096, k: int = 4096, **more: Any) -> Point:
    return Point(id="a", set="x", op="gemm", name="qkv", ns=(seconds * 1e9,), m=m, n=n, k=k, **more)


def flags(point: Point, in_cache: bool = False) -> tuple[str, ...]:
    return gate_points([point], PEAK, repeats_in_cache=in_cache)[0].flags


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 60))
def test_attended_tokens_are_those_a_loop_counts(q: int, cached: int, window: int) -> None:
    kv = cached + q

    assert attended(q, kv, window) == sum(min(window, cached + each + 1) for each in range(q))


def test_a_window_bounds_what_a_decode_reads_and_computes() -> None:
    point = Point(
        id="a", set="x", op="attn_decode", ns=(1.0,), q=(1, 1), kv=(10, 300), heads=(8, 2, 64), window=128
    )

    assert bytes_read(point) == (10 + 128) * 2 * 2 * 64 * 2
    assert operations(point) == 4 * 8 * 64 * (10 + 128)


def test_a_product_moves_its_weights_at_their_dtype() -> None:
    assert bytes_read(product(1.0, m=8)) == 2 * 4096 * 4096 + 2 * 8 * 8192
    assert bytes_read(product(1.0, m=8, dtype="fp8")) == 4096 * 4096 + 2 * 8 * 8192
    assert operations(product(1.0, m=8)) == 2 * 8 * 4096 * 4096


def test_bytes_above_the_peak_are_rejected_at_once() -> None:
    least = bytes_read(product(1.0)) / PEAK.bandwidth

    assert flags(product(1.01 * least)) == ()
    assert flags(product(0.99 * least)) == ("above-peak", "rejected")


def test_operations_have_the_headroom_of_a_clock() -> None:
    least = operations(product(1.0, m=4096)) / PEAK.flops

    assert flags(product(1.01 * least, m=4096)) == ()
    assert flags(product(1.01 * least / CLOCK_HEADROOM, m=4096)) == ("above-peak",)
    assert flags(product(0.99 * least / CLOCK_HEADROOM, m=4096)) == ("above-peak", "rejected")
    assert flags(product(0.6 * least, m=4096, dtype="fp8")) == ()


def test_only_timings_that_repeat_in_the_cache_are_warm() -> None:
    small = product(1e-3, n=64, k=64)

    assert flags(small, in_cache=True) == ("l2-warm",)
    assert flags(small) == ()


def test_what_moves_nothing_is_never_flagged() -> None:
    norm = Point(id="a", set="x", op="elementwise", name="norm", ns=(0.001,), m=8)

    assert flags(norm, in_cache=True) == ()


@pytest.mark.parametrize("op", ["attn_decode", "attn_prefill"])
def test_only_decodes_are_held_against_cold_ones(op: Any) -> None:
    heads = (8, 2, 64)
    cold = Point(id="cold", set="x", op=op, ns=(1e9,), q=(1,), kv=(100_000,), heads=heads)
    warm = Point(id="warm", set="x", op=op, ns=(1e6,), q=(1,), kv=(1000,), heads=heads)
    gated = gate_points([cold, warm], PEAK, repeats_in_cache=True)

    assert gated[0].flags == ()
    assert ("rejected" in gated[1].flags) == (op == "attn_decode")
