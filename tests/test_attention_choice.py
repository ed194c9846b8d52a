"""Which attention fit prices what: whole prompts by a kernel of their own, shared pages at a discount."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_device as device
from hypothesis import given
from hypothesis import strategies as st
from small_runs import trace
from small_tables import SMALL, config_json

from kvsim.calibration.attention_choice import choose, choose_dense, choose_discount
from kvsim.calibration.attention_kinds import Kind, fit_attention, form_name, kind_of
from kvsim.calibration.cost import UNDISCOUNTED, ProfileCost
from kvsim.calibration.features import is_dense
from kvsim.calibration.fits import Fits
from kvsim.calibration.fits_file import fits_from_json, fits_to_json
from kvsim.calibration.points import Point
from kvsim.calibration.profile import Profile
from kvsim.cost import Step
from kvsim.policy import Span
from kvsim.result import Result
from kvsim.run import simulate

LAYERS = SMALL.layers
SPEEDUP = 3.0
"""How much faster the made-up kernel for whole prompts is."""


def by_kernel(point: Point) -> Point:
    if point.q != point.kv:
        return replace(point, backend="triton")
    return replace(point, backend="sdpa-flash", ns=(point.ns[0] / SPEEDUP,))


CHUNKS = [by_kernel(point) for point in device.chunks()]
TWO_KERNELS = device.profile([*device.decodes(), *CHUNKS, *device.others()])


def cost(profile: Profile = TWO_KERNELS, **changed: Any) -> ProfileCost:
    return ProfileCost(profile, (Span(None, LAYERS),), **{"page": 16} | changed)


def chunk(tokens: int, cached: int = 0) -> Step:
    area = tokens * cached + tokens * (tokens + 1) // 2
    return Step(tokens, cached + tokens, 0, (0,), 1, tokens, (cached + tokens,), (area,))


def decodes(count: int, length: int, shared: int = 0) -> Step:
    total = count * length
    return Step(count, total, count, (total,), decode_shared=shared)


def test_whole_prompts_of_torch_are_a_kind_of_their_own_wherever_they_are_kept() -> None:
    whole, cached = CHUNKS[0], CHUNKS[1]
    slot = replace(whole, layout="contiguous", page=None)

    assert is_dense(whole)
    assert not any(map(is_dense, (cached, replace(whole, backend="triton"))))
    assert kind_of(whole) == kind_of(slot) == Kind("attn_prefill", dense=True)
    assert form_name(whole) == "attn_prefill whole prompts kv=bf16"
    assert kind_of(cached) == Kind("attn_prefill", page=16)


@given(st.integers(16, 2048), st.one_of(st.just(0), st.integers(128, 1024)))
def test_each_kernel_prices_its_own_chunks(tokens: int, cached: int) -> None:
    attention = device.attention("attn_prefill", (tokens,), (tokens + cached,)).seconds
    same_tokens = cost().seconds(chunk(tokens, 500))
    rest = same_tokens - LAYERS * device.attention("attn_prefill", (tokens,), (tokens + 500,)).seconds

    expected = rest + LAYERS * attention / (1 if cached else SPEEDUP)
    assert cost().seconds(chunk(tokens, cached)) == pytest.approx(expected, rel=0.02)


def test_both_kernels_have_their_error_and_steps_are_of_both() -> None:
    errors = TWO_KERNELS.errors

    for name in ("attn_prefill whole prompts kv=bf16", "attn_prefill paged page=16 kv=bf16"):
        assert errors[name].mean < 0.01
    assert errors["step prefill"].mean < 0.01
    assert (
        errors["step prefill"].points >= sum(errors[name].points for name in errors if "prefill " in name) - 2
    )


@given(st.integers(2, 3000), st.integers(1, 3000))
def test_a_cached_token_more_never_makes_a_chunk_faster(tokens: int, cached: int) -> None:
    for profile in (TWO_KERNELS, SLOW_WHOLE):
        priced = cost(profile)

        assert priced.seconds(chunk(tokens, cached)) >= priced.seconds(chunk(tokens)) * (1 - 1e-5)


SLOW_WHOLE = device.profile(
    [
        *device.decodes(),
        *(replace(each, ns=(each.ns[0] * 9,)) if is_dense(each) else each for each in CHUNKS),
        *device.others(),
    ]
)
"""Whole prompts take longer in the kernel made for them: the other one is charged."""


def test_steps_are_within_what_the_kernel_that_prices_them_was_timed_for() -> None:
    priced = cost()
    for step in (chunk(512), chunk(512, 500), chunk(4096), chunk(512, 4000)):
        priced.seconds(step)

    assert (priced.steps, priced.extrapolated_steps) == (4, 2)


def test_where_only_whole_prompts_were_timed_they_price_chunks_and_say_so() -> None:
    alone = fit_attention([*device.decodes(), *(point for point in CHUNKS if is_dense(point))])

    fitted, notes = choose(alone, Kind("attn_prefill", page=16))

    assert fitted.of.dense
    assert notes == ["attn_prefill behind a cached prefix was not timed: priced as whole prompts"]


def test_a_windowed_layer_is_not_priced_by_the_kernel_without_windows() -> None:
    attention = TWO_KERNELS.fits.attention

    assert choose_dense(attention, Kind("", "contiguous")) is not None
    assert choose_dense(attention, Kind("", window=64)) is None


def test_kernels_are_told_apart_in_the_file_and_plain_kinds_are_written_as_ever() -> None:
    record = fits_to_json(TWO_KERNELS.fits)

    assert [each.get("dense") for each in record["attention"]].count(True) == 1
    assert set(fits_from_json(record, "f").attention) == set(TWO_KERNELS.fits.attention)
    assert "dense" not in str(fits_to_json(Fits(attention=fit_attention(device.decodes()))))


def with_shared(saved_ns: float) -> Profile:
    """Return a profile whose decodes save so much a token that they share."""
    shared = [
        replace(
            point, id=f"s{number}", layout="shared", shared_tokens=sum(point.kv) // 2,
            ns=(point.ns[0] - saved_ns * (sum(point.kv) // 2),),
        )
        for number, point in enumerate(device.decodes()[6:])
    ]  # fmt: skip
    return device.profile([*device.every_point(), *shared])


def test_shared_tokens_are_discounted_in_every_paged_layout_and_their_error_is_stated() -> None:
    profile = with_shared(0.4)

    assert profile.errors["attn_decode shared page=16 kv=bf16"].mean < 0.01
    for asked in ({}, {"page": 64}, {"layout": "shared"}):
        priced = cost(profile, **asked)
        saved = priced.seconds(decodes(8, 1000)) - priced.seconds(decodes(8, 1000, 4000))
        assert saved == pytest.approx(LAYERS * 4000 * 0.4e-9, rel=0.02)
    assert choose_discount(profile.fits.attention, Kind("attn_decode", "contiguous")) == 0.0


@given(st.integers(1, 64), st.integers(2, 4000), st.floats(0, 1))
def test_shared_reads_cost_no_less_than_reading_the_unique_tokens(
    count: int, length: int, share: float
) -> None:
    shared = int(share * (count - 1) * length)
    priced = cost(SHARED)
    unique = decodes(count, length)._replace(decode_context=(count * length - shared,))

    assert priced.seconds(decodes(count, length, shared)) >= priced.seconds(unique) * (1 - 1e-9)
    assert priced.seconds(decodes(count, length, shared)) <= priced.seconds(decodes(count, length)) * (
        1 + 1e-9
    )


SHARED = with_shared(0.9)


def test_a_chunk_beside_decodes_leaves_them_their_discount() -> None:
    def step(shared: int) -> Step:
        return chunk(256)._replace(tokens=264, decodes=8, decode_context=(8000,), decode_shared=shared)

    priced = cost(with_shared(0.4))

    assert priced.seconds(step(0)) - priced.seconds(step(4000)) == pytest.approx(LAYERS * 1.6e-6, rel=0.02)


def test_windowed_layers_have_no_discount() -> None:
    priced = ProfileCost(SHARED, (Span(64, LAYERS),), page=16)

    assert priced.seconds(decodes(8, 64, 100)) == priced.seconds(decodes(8, 64))


def test_without_shared_points_each_reads_its_own_and_the_run_says_so_once_it_matters() -> None:
    priced = cost()

    plain = priced.seconds(decodes(8, 1000))
    assert UNDISCOUNTED not in priced.notes
    assert [priced.seconds(decodes(8, 1000, 4000)) for _ in range(2)] == [plain, plain]
    assert priced.notes.count(UNDISCOUNTED) == 1


def run_of(profile: Profile, folder: Path, policy: str) -> Result:
    """Run two requests whose prompts begin alike, long enough to decode side by side."""
    config, path = config_json(folder), profile.save(folder / "p.json")
    rows = trace((0.0, 512, 200), (0.02, 512, 200), ids=[[1, 2, 3], [1, 2, 3]], block_tokens=160)
    return simulate(rows, policy, model=str(config), gpu="l4", cost=str(path), measure_capacity=False)


def test_a_run_that_shares_prefixes_is_charged_less_by_what_the_profile_knows(tmp_path: Path) -> None:
    shared, plain = (run_of(each, tmp_path, "prefix") for each in (SHARED, TWO_KERNELS))
    alone = run_of(TWO_KERNELS, tmp_path, "paged")

    assert shared.summary["cached_tokens"] == plain.summary["cached_tokens"] > 0
    assert shared.summary["mean_tpot_ms"] < plain.summary["mean_tpot_ms"]
    assert UNDISCOUNTED in plain.config["cost_notes"]
    assert UNDISCOUNTED not in [*shared.config["cost_notes"], *alone.config["cost_notes"]]
