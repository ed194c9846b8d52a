"""Every profile that comes with kvsim loads, fits its model, keeps to physics, and prices a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import trace

from kvsim.calibration.cost import ProfileCost
from kvsim.calibration.gemm_shapes import gemm_shapes
from kvsim.calibration.imported import STATEMENT
from kvsim.calibration.importers import build_profile, import_tables
from kvsim.calibration.profile import Profile
from kvsim.calibration.profile_file import read_profile, shipped_profiles
from kvsim.calibration.ship import DATA, SHIPPED, main, write_shipped
from kvsim.cost import Step
from kvsim.gpu import find_gpu
from kvsim.policy import Span
from kvsim.run import simulate
from kvsim.zoo import find_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "profiling"
MOST_BYTES = 150_000
ROUNDING = 1 + 1e-6
"""Fits are written with seven digits."""
PROFILES = {str(each.path.with_suffix("")): each for each in SHIPPED}
every = pytest.mark.parametrize("name", PROFILES)
needs_tables = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared with the published tables is not there"
)


def loaded(name: str) -> Profile:
    return read_profile(DATA / f"{name}.json")


def cost_of(profile: Profile) -> ProfileCost:
    return ProfileCost(profile, (Span(None, 1),), page=16)


def decode(count: int, context: int) -> Step:
    return Step(count, context, count, (context,))


def prefill(tokens: int, cached: int = 0) -> Step:
    area = tokens * cached + tokens * (tokens + 1) // 2
    return Step(tokens, cached + tokens, 0, (0,), 1, tokens, (cached + tokens,), (area,))


def mixed(count: int, context: int, tokens: int, cached: int) -> Step:
    chunk = prefill(tokens, cached)
    return chunk._replace(
        tokens=count + tokens, context=context + chunk.context, decodes=count, decode_context=(context,)
    )


def test_every_listed_profile_is_there_and_found_by_name() -> None:
    assert set(PROFILES) <= set(shipped_profiles())


@every
def test_a_profile_is_of_its_model_small_and_without_points(name: str) -> None:
    each, profile = PROFILES[name], loaded(name)
    model = find_model(each.model)

    assert (DATA / each.path).stat().st_size < MOST_BYTES
    assert profile.points == ()
    assert profile.tensor_parallel_size == each.tensor_parallel_size
    for field in ("name", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
        assert getattr(profile.model, field) == getattr(model, field)
    assert set(profile.fits.gemm) | {"lm_head"} == set(gemm_shapes(model))
    assert bool(profile.fits.allreduce) == (each.tensor_parallel_size > 1)


@every
def test_a_profile_says_whose_measurements_it_rests_on(name: str) -> None:
    profile = loaded(name)

    assert profile.is_imported
    assert profile.source["statement"] == STATEMENT
    assert profile.source["licence"]
    assert profile.source["tables"]
    assert STATEMENT in cost_of(profile).label
    assert profile.device["gpu"] == PROFILES[name].gpu


@every
def test_steps_of_a_profile_are_near_points_it_has_not_seen(name: str) -> None:
    errors = loaded(name).errors

    assert errors["step decode"].mean <= 0.035
    assert errors["step prefill"].mean <= 0.06
    assert abs(errors["step decode"].bias) <= 0.02


@pytest.mark.parametrize("gpu", ["h200-sxm", "a100-80-sxm", "b200"])
def test_decode_steps_of_the_8b_model_are_within_two_and_a_half_percent(gpu: str) -> None:
    assert loaded(f"{gpu}/llama-3.1-8b").errors["step decode"].mean <= 0.025


@pytest.mark.parametrize("gpu", ["rtx4090", "rtx-pro-6000"])
def test_prefill_and_mixed_steps_are_within_six_percent(gpu: str) -> None:
    errors = loaded(f"{gpu}/llama-3.1-8b").errors

    assert errors["step prefill"].mean <= 0.06
    assert errors["step mixed"].mean <= 0.06
    assert errors["step mixed"].points > 10_000


@every
def test_no_decode_that_fits_the_card_is_faster_than_reading_its_bytes_at_the_peak(name: str) -> None:
    each = PROFILES[name]
    cost, model, gpu = cost_of(loaded(name)), find_model(each.model), find_gpu(each.gpu)
    size = each.tensor_parallel_size
    weights = (model.parameters - model.vocab * model.hidden) * 2 / size

    held = [(count, length) for count in (1, 3, 8, 32, 100, 256) for length in (1, 64, 1000, 4096, 30_000)]
    for count, length in held:
        moved = weights + count * length * model.kv_bytes_per_token("auto", size)
        if moved < gpu.memory_bytes:
            assert cost.seconds(decode(count, count * length)) >= moved / gpu.bandwidth


@every
def test_no_prefill_is_faster_than_its_operations_at_the_peak(name: str) -> None:
    each = PROFILES[name]
    cost, model, gpu = cost_of(loaded(name)), find_model(each.model), find_gpu(each.gpu)
    per_token = 2 * (model.parameters - model.embedding_parameters) / each.tensor_parallel_size

    for tokens in (256, 2048, 8192, 16_384):
        # RTX 4090 clocks above the clock that its rate is stated for.
        assert cost.seconds(prefill(tokens)) >= per_token * tokens / (1.1 * gpu.bf16_flops)


@every
@settings(max_examples=25)
@given(
    count=st.integers(1, 512),
    length=st.integers(1, 40_000),
    tokens=st.integers(2, 8192),
    cached=st.integers(0, 40_000),
    more=st.integers(1, 1000),
)
def test_more_work_never_takes_less_time(
    name: str, count: int, length: int, tokens: int, cached: int, more: int
) -> None:
    cost, context = COSTS[name], count * length
    least = cost.seconds(decode(count, context))
    chunk = cost.seconds(prefill(tokens, cached))
    both = cost.seconds(mixed(count, context, tokens, cached))

    assert least <= cost.seconds(decode(count, context + more)) * ROUNDING
    assert least <= cost.seconds(decode(count + more, context + more)) * ROUNDING
    assert chunk <= cost.seconds(prefill(tokens + more, cached)) * ROUNDING
    assert chunk <= cost.seconds(prefill(tokens, cached + more)) * ROUNDING
    assert max(least, chunk) <= both * ROUNDING


COSTS: dict[str, Any] = {
    name: cost_of(loaded(name)) for name in PROFILES if (DATA / f"{name}.json").is_file()
}


@every
def test_a_run_priced_by_the_profile_finishes_and_names_it(name: str) -> None:
    each = PROFILES[name]
    rows = [(0.0, 300, 20), (0.1, 1500, 40), (0.2, 64, 5)]
    result = simulate(
        trace(*rows),
        "paged",
        model=each.model,
        gpu=each.gpu,
        tensor_parallel_size=each.tensor_parallel_size,
        num_gpu_blocks_override=1000,
        max_model_len=8192,
        cost=str(DATA / each.path),
        measure_capacity=False,
    )

    assert result.summary["completed"] == len(rows)
    assert STATEMENT in str(result.config["cost"])


def test_shipping_without_tables_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ship", str(tmp_path / "absent"), "-o", str(tmp_path)])

    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == f"kvsim: {tmp_path}/absent/aiconfigurator: no such folder\n"


@pytest.mark.parametrize("name", ["h200-sxm/llama-3.1-8b", "b200/llama-3.1-70b-tp4", "a30/qwen2.5-7b"])
@pytest.mark.shared
@needs_tables
def test_the_tables_give_the_shipped_bytes_again(tmp_path: Path, name: str) -> None:
    written = write_shipped(PROFILES[name], SHARED, tmp_path)

    assert written.read_bytes() == (DATA / PROFILES[name].path).read_bytes()


@pytest.mark.shared
@needs_tables
def test_another_draw_of_mixed_steps_is_within_six_percent_too() -> None:
    model = find_model("llama-3.1-8b")
    found = import_tables("llmservingsim", SHARED / "llmservingsim", model, gpu="rtx4090", seed=7)
    errors = build_profile(model, found).errors

    assert errors["step mixed"].mean <= 0.06
    assert errors["step prefill"].mean <= 0.06
