"""Steps priced by a profile: sums of kernels, never less for more work, and honest about what was not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_device as device
from hypothesis import given
from hypothesis import strategies as st
from small_tables import SMALL

from kvsim.calibration.cost import CAPTURED, ProfileCost
from kvsim.calibration.imported import STATEMENT
from kvsim.calibration.points import Point
from kvsim.calibration.profile import Profile
from kvsim.config import RunConfig
from kvsim.cost import Step
from kvsim.errors import InputError
from kvsim.policy import Span
from kvsim.run import prepare_cost, prepare_policy, prepare_pool, simulate
from kvsim.traces.generate import generate

LAYERS = SMALL.layers
ADDITIVE = device.profile()
FUSED = device.profile([*device.every_point(), *device.mixed()])
TWICE = (Span(None, LAYERS),)


def cost(profile: Profile = ADDITIVE, spans: tuple[Span, ...] = TWICE, **changed: Any) -> ProfileCost:
    return ProfileCost(profile, spans, **{"page": 16} | changed)


def step(decodes: int, length: int, tokens: int = 0, cached: int = 0, spans: int = 1) -> Step:
    """Return a step of decodes of one length and, with `tokens`, of one chunk."""
    reads = (decodes * length,) * spans
    if not tokens:
        return Step(decodes, reads[0], decodes, reads)
    area = tokens * cached + tokens * (tokens + 1) // 2
    total = reads[0] + cached + tokens
    chunk = (1, tokens, (tokens + cached,) * spans, (area,) * spans)
    return Step(decodes + tokens, total, decodes, reads, *chunk)


def kernels(tokens: int, rows: int) -> float:
    """Return what the device takes besides attention."""
    from kvsim.calibration.gemm_shapes import gemm_shapes

    shapes = gemm_shapes(SMALL)
    products = sum(device.gemm_seconds(*shapes[name], tokens) for name in ("qkv", "o", "gate_up", "down"))
    small = 4 * (2e-6 + 5e-9 * tokens)
    return LAYERS * (products + small) + device.gemm_seconds(*shapes["lm_head"], rows) + 20e-6 + 1e-7 * rows


def decode_seconds(decodes: int, length: int) -> float:
    return device.attention("attn_decode", (1,) * decodes, (length,) * decodes).seconds


def test_a_decode_step_is_the_sum_of_its_kernels_over_the_layers() -> None:
    found = cost(pads=False).seconds(step(32, 1000))

    assert found == pytest.approx(kernels(32, 32) + LAYERS * decode_seconds(32, 1000), rel=0.01)


def test_a_mixed_step_of_two_kernels_is_their_sum() -> None:
    priced = cost(pads=False)
    chunk = device.attention("attn_prefill", (256,), (384,)).seconds
    expected = kernels(264, 9) + LAYERS * (decode_seconds(8, 500) + chunk)

    assert priced.seconds(step(8, 500, 256, 128)) == pytest.approx(expected, rel=0.01)


def test_a_mixed_step_of_one_kernel_is_charged_as_that_was_timed() -> None:
    point = device.attention("attn_mixed", (256, *(1,) * 8), (256, *(500,) * 8))
    expected = kernels(264, 9) + LAYERS * point.seconds

    assert cost(FUSED, pads=False).seconds(step(8, 500, 256)) == pytest.approx(expected, rel=0.01)
    assert cost(FUSED).seconds(step(8, 500)) == cost().seconds(step(8, 500))


steps = st.tuples(
    st.integers(1, 200),
    st.integers(1, 5000),
    st.one_of(st.just(0), st.integers(2, 2000)),
    st.integers(0, 3000),
)


@pytest.mark.parametrize("profile", [ADDITIVE, FUSED], ids=["additive", "fused"])
@given(steps, st.integers(0, 3), st.integers(1, 1000))
def test_more_work_never_takes_less_time(
    profile: Profile, sizes: tuple[int, int, int, int], which: int, more: int
) -> None:
    priced = cost(profile)
    bigger = list(sizes)
    bigger[which] = sizes[which] + more if which != 2 or sizes[2] else sizes[2]

    assert priced.seconds(step(*bigger)) >= priced.seconds(step(*sizes)) * (1 - 1e-5)


@pytest.mark.parametrize("profile", [ADDITIVE, FUSED], ids=["additive", "fused"])
@given(st.integers(1, 200), st.integers(1, 5000), st.integers(2, 2000))
def test_a_chunk_beside_decodes_never_makes_them_faster(
    profile: Profile, decodes: int, length: int, tokens: int
) -> None:
    priced = cost(profile)

    assert priced.seconds(step(decodes, length, tokens)) >= priced.seconds(step(decodes, length))


@given(st.integers(1, 600))
def test_captured_steps_are_padded_to_the_next_size(decodes: int) -> None:
    priced = cost(spans=(Span(None, LAYERS),))
    size = next((each for each in CAPTURED if each >= decodes), decodes)
    same_attention = LAYERS * decode_seconds(decodes, 100)

    assert priced.seconds(step(decodes, 100)) == pytest.approx(
        kernels(size, decodes) + same_attention, rel=0.01
    )


def test_windowed_layers_are_charged_by_their_own_points() -> None:
    windowed = [replace(point, id=f"w{number}", window=64, ns=(point.ns[0] + 5e4,)) for number, point in enumerate(
        device.attention("attn_decode", (1,) * n, (64,) * n) for n in (1, 2, 4, 8, 16, 32))]  # fmt: skip
    profile = device.profile([*device.every_point(), *windowed])
    both = (Span(None, 1), Span(64, 3))
    reads = Step(8, 8000, 8, (8000, 512))

    found = cost(profile, both, pads=False)
    attention = decode_seconds(8, 1000) + 3 * (decode_seconds(8, 64) + 5e-5)
    assert found.seconds(reads) == pytest.approx(kernels(8, 8) + attention, rel=0.02)
    assert [note for note in found.notes if "attn_decode" in note] == []
    assert "attn_prefill with a window of 64 was not timed" in " ".join(found.notes)


def test_windows_that_were_not_timed_are_charged_as_full_attention_to_as_much() -> None:
    found = cost(spans=(Span(64, LAYERS),), pads=False)

    assert found.seconds(Step(8, 8000, 8, (512,))) == pytest.approx(
        kernels(8, 8) + LAYERS * decode_seconds(8, 64), rel=0.01
    )
    assert "attn_decode with a window of 64 was not timed" in " ".join(found.notes)


LAYOUTS: list[tuple[dict[str, Any], float]] = [
    ({"layout": "paged", "page": 16}, 1.0),
    ({"layout": "paged", "page": 128}, 1.2),
    ({"layout": "contiguous", "page": None}, 0.8),
]


@pytest.mark.parametrize(("asked", "factor"), LAYOUTS)
def test_page_sizes_and_slots_are_charged_by_their_own_points(asked: dict[str, Any], factor: float) -> None:
    points = device.every_point()
    for kind, times in LAYOUTS[1:]:
        points += [
            replace(point, **kind, id=f"{kind} {point.id}", ns=(point.ns[0] * times,))
            for point in device.decodes()
        ]
    found = cost(device.profile(points), pads=False, **asked)

    expected = kernels(16, 16) + LAYERS * factor * decode_seconds(16, 1024)
    assert found.seconds(step(16, 1024)) == pytest.approx(expected, rel=0.01)


def test_weights_of_a_policys_spans_are_shares_of_the_layers() -> None:
    halves = (Span(None, 1), Span(None, 1))

    assert cost(spans=halves).seconds(step(4, 100, spans=2)) == pytest.approx(cost().seconds(step(4, 100)))


def test_allreduces_are_two_a_layer_and_eager_above_the_largest_graph() -> None:
    def reduce(mode: str, kilobytes: int) -> Point:
        seconds = (50e-6 if mode == "eager" else 5e-6) + kilobytes * 1e-8
        name = f"{mode}-{kilobytes}"
        return Point(id=name, set="X", op="allreduce", gpus=2, mode=mode, message_bytes=1024 * kilobytes,
                     ns=(seconds * 1e9,))  # type: ignore[arg-type]  # fmt: skip

    extra = [reduce(mode, 1 << power) for mode in ("graph", "eager") for power in range(14)]
    alone = device.profile(device.every_point())
    shared = replace(alone, fits=replace(alone.fits, allreduce=_reductions(extra)))
    for tokens, start in ((256, 5e-6), (1024, 50e-6)):
        more = cost(shared).seconds(step(0, 0, tokens)) - cost(alone).seconds(step(0, 0, tokens))
        message = tokens * SMALL.hidden * 2 / 1024
        assert more == pytest.approx(2 * LAYERS * (start + message * 1e-8), rel=0.01)


def _reductions(points: list[Point]) -> Any:
    from kvsim.calibration.fits import fit_points

    return fit_points(points).allreduce


def test_steps_outside_what_was_measured_are_counted() -> None:
    priced = cost()
    for each in (step(8, 500), step(8, 5000), step(65, 500), step(8, 500, 100), step(8, 500, 5000)):
        priced.seconds(each)

    assert (priced.steps, priced.extrapolated_steps) == (5, 3)
    assert priced.hull_share == pytest.approx(0.4)


def test_a_cost_that_priced_nothing_is_within_what_was_measured() -> None:
    assert cost().hull_share == 1.0


@pytest.mark.parametrize("overlaps", [False, True])
def test_host_time_is_added_or_hidden(overlaps: bool) -> None:
    slow = replace(ADDITIVE, host={"step": 1.0, "request": 0.1, "source": "made up"})
    kernels_alone = cost().seconds(step(10, 100))

    found = cost(slow, overlaps_host=overlaps).seconds(step(10, 100))
    assert found == pytest.approx(2.0 if overlaps else 2.0 + kernels_alone)


def test_launches_bound_what_is_not_captured() -> None:
    point = Point(id="launch", set="X", op="launch", name="kernel", ns=(1e7,), mode="eager")
    profile = device.profile([*device.every_point(), point])

    # Four products, two norms, rope, activation and attention in each layer, at 10 ms a launch.
    assert cost(profile).seconds(step(0, 0, 1024)) == pytest.approx(LAYERS * 9 * 0.01)
    assert cost(profile).seconds(step(0, 0, 512)) < 0.01


def test_shared_tokens_are_discounted_where_a_step_tells_them() -> None:
    shared = [
        replace(point, id=f"s{n}", layout="shared", shared_tokens=500, ns=(point.ns[0] - 500 * 0.4,))
        for n, point in enumerate(device.decodes())
    ]
    priced = cost(device.profile([*device.every_point(), *shared]), layout="shared")

    plain = step(8, 1000)
    saved = priced.seconds(plain) - priced.seconds(plain._replace(decode_shared=2000))
    assert saved == pytest.approx(LAYERS * 2000 * 0.4e-9, rel=0.01)


def test_the_label_names_gpu_model_and_error_and_ends_in_calibrated() -> None:
    label = cost(replace(ADDITIVE, source={"statement": STATEMENT})).label

    assert label.startswith("profile:synthetic/small (decode steps off by 0.")
    assert label.endswith("on held-out points; imported, not measured by this project; calibrated)")


CPU = replace(ADDITIVE, representative=False)


def run_cost(path: Path, policy: str = "paged", **changed: Any) -> ProfileCost:
    config = RunConfig(model=str(path.with_name("config.json")), gpu="l4", cost=str(path)).changed(**changed)
    chosen = prepare_policy(policy, config)
    chosen.reset(prepare_pool(None, chosen, config))
    found = prepare_cost(config, chosen)
    assert isinstance(found, ProfileCost)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a profile's path, beside the configuration of its model."""
    import json

    fields = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 4, "hidden_size": 256,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 512,
        "vocab_size": 1000, "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(fields))
    return device.profile().save(tmp_path / "p.json")


def test_a_run_takes_the_profile_that_cost_names(path: Path) -> None:
    work = generate("alpaca", 20, rate=50.0)
    result = simulate(work, "paged", model=str(path.with_name("config.json")), gpu="l4", cost=str(path))

    assert result.summary["completed"] == 20
    assert 0 < result.summary["hull_share"] <= 1
    assert result.config["cost"].endswith("calibrated)")
    assert run_cost(path).seconds(step(4, 100)) == cost().seconds(step(4, 100))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"model": "llama-3.1-8b", "gpu": "h200-sxm"},
            "of another model: small has layers 4, llama-3.1-8b has 32",
        ),
        ({"weight_dtype": "fp8"}, "is of bf16 weights, the run's are fp8"),
        ({"kv_cache_dtype": "fp8"}, "no attn_decode points over a KV cache of fp8; there is bf16"),
        ({"tensor_parallel_size": 2}, "is of tensor_parallel_size 1, the run has 2"),
        ({"cost": "nowhere.json"}, "nowhere.json: No such file or directory"),
        ({"cost": "calibratet"}, "cost must be roofline, .* got 'calibratet'"),
        ({"cost": "calibrated"}, "no shipped profile of l4/"),
    ],
)
def test_a_profile_that_does_not_fit_the_run_is_refused(path: Path, changed: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run_cost(path, **changed)


def test_a_profile_of_no_gpu_is_taken_only_when_asked_for(path: Path) -> None:
    CPU.save(path)

    with pytest.raises(InputError, match="does not represent a GPU; --allow-unrepresentative takes it"):
        run_cost(path)
    assert "not representative" in run_cost(path, allow_unrepresentative=True).label


def test_calibrated_finds_the_shipped_profile_of_gpu_and_model() -> None:
    from kvsim.calibration.cost_choice import find_profile

    config = RunConfig(cost="calibrated", gpu="h200-sxm")
    assert find_profile("calibrated", config).model.name == "llama-3.1-8b"


@given(st.integers(1, 60), st.integers(1, 4000), st.integers(2, 2000), st.integers(1, 4000))
def test_a_short_decode_that_joins_long_ones_never_makes_a_step_faster(
    decodes: int, length: int, tokens: int, joining: int
) -> None:
    for profile, chunk in ((ADDITIVE, 0), (FUSED, 0), (FUSED, tokens)):
        priced, before = cost(profile), step(decodes, length, chunk)
        context = before.decode_context[0] + joining
        after = before._replace(tokens=before.tokens + 1, decodes=decodes + 1, decode_context=(context,))

        assert priced.seconds(after) >= priced.seconds(before) * (1 - 1e-5)
