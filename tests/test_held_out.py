"""Which points are kept from the fit: never so many of a form that none is left to fit it to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import synthetic_device as device
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import SMALL

from kvsim.calibration.attention_kinds import form_name
from kvsim.calibration.held_out import LEAST_FITTED, is_fitted, with_enough_fitted, with_held_out
from kvsim.calibration.points import Point
from kvsim.calibration.profile import Profile, check_points
from kvsim.errors import InputError

RARE = [
    replace(device.attention("attn_decode", (1,) * 8, (length,) * 8), id=f"rare-{length}", page=64)
    for length in (64, 256, 1024)
]
"""A kind of three points, all amid the sizes of the common one, so that any may be drawn."""


def test_nothing_is_held_out_where_nothing_would_be_left() -> None:
    alone = Point(id="a", set="G", op="gemm", ns=(1.0,), name="o", m=1, held_out=True)
    others = [Point(id=str(m), set="G", op="gemm", ns=(1.0,), name="o", m=m) for m in (2, 4)]

    assert [point.held_out for point in with_enough_fitted([alone])] == [False]
    assert with_enough_fitted([alone, *others])[0].held_out


def test_rejected_points_do_not_count_as_fitted() -> None:
    points = [Point(id=str(m), set="G", op="gemm", ns=(1.0,), name="o", m=m) for m in (1, 2, 4)]
    kept = [replace(points[0], held_out=True), *(replace(each, flags=("rejected",)) for each in points[1:])]

    assert not with_enough_fitted(kept)[0].held_out


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_no_draw_holds_out_a_whole_kind(seed: int, rare: int) -> None:
    drawn = with_held_out([*device.decodes(), *RARE[:rare]], seed, share=0.6)

    for form in {form_name(point) for point in drawn}:
        alike = [point for point in drawn if form_name(point) == form]
        assert sum(map(is_fitted, alike)) >= min(LEAST_FITTED, len(alike))
    assert any(point.held_out for point in drawn)


@pytest.mark.parametrize("seed", range(4))
def test_a_profile_with_a_rare_kind_is_built_whatever_is_drawn(seed: int) -> None:
    profile = device.profile([*device.every_point(), *RARE], seed=seed, draws=6)

    assert "attn_decode paged page=64 kv=bf16" in profile.measured
    assert profile.errors["step decode"].mean < 0.01


def test_a_split_that_the_points_bring_along_is_mended_alike() -> None:
    points = [*device.every_point(), *(replace(each, held_out=True) for each in RARE)]
    points[0] = replace(points[0], held_out=True)

    built = Profile.build(SMALL, points, draws=1)

    assert [point.id for point in built.points if point.held_out] == [points[0].id]


def test_a_file_whose_kind_is_held_out_whole_is_one_line() -> None:
    points = (*device.every_point(), *(replace(each, held_out=True) for each in RARE))
    profile = Profile(model=SMALL, points=points)

    with pytest.raises(
        InputError, match=r"point rare-64: held out, like all others of attn_decode paged page=64"
    ):
        check_points(profile)
