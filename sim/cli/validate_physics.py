"""Measures of what holds whatever the numbers: the roofline bound, Little's law, scaling; and step costs beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.cost import CostModel, Step
    from kvsim.gpu import Gpu
    from kvsim.model import Model
    from kvsim.validate_memory import Figures

BATCHES = (1, 3, 8, 32, 100, 256)
LENGTHS = (1, 64, 1000, 4096, 30_000)
PROMPTS = (256, 2048, 8192, 16_384)
LONG = 100_000
"""Tokens of context at which a slope is taken."""


def profile_bound(*, profile: str) -> Figures:
    """Return the least ratio of a step's time to what its bytes (`decode`) or FLOPs (`prefill`) take at the peak."""
    from kvsim.gpu import find_gpu
    from kvsim.zoo import find_model

    found, cost = _profile(profile)
    model, gpu = find_model(found.model.name), find_gpu(str(found.device["gpu"]))
    return _bound(cost, model, gpu, found.tensor_parallel_size)


def roofline_bound(*, model: str) -> Figures:
    """Return the same of the datasheet roofline, the least over all GPUs that hold the model."""
    from kvsim.gpu import find_gpu, gpu_names
    from kvsim.roofline import RooflineCost
    from kvsim.zoo import find_model

    shape = find_model(model)
    cards = [find_gpu(name) for name in gpu_names()]
    held = [card for card in cards if card.memory_bytes > shape.weight_bytes]
    found = [_bound(RooflineCost(shape, card, shape.spans), shape, card, 1) for card in held]
    return {name: min(float(each[name]) for each in found) for name in found[0]}  # type: ignore[arg-type]


def profile_error(*, profile: str) -> Figures:
    """Return a profile's mean error on held-out `decode`, `prefill` and `mixed` steps, as it states it."""
    found, _ = _profile(profile)
    return {name.removeprefix("step "): error.mean for name, error in found.errors.items() if "step " in name}


def decode_cost(*, model: str, batch: int = 1, **settings: Any) -> Figures:  # Any: RunConfig fields by name
    """Return what a token of context costs a decode step, `slope_ms`, and the step without any, `fixed_ms`."""
    price = _price(model, settings)
    near, far = (1e3 * price.seconds(_decode(batch, context)) for context in (1000, LONG))
    slope = (far - near) / (LONG - 1000)
    return {"slope_ms": slope, "fixed_ms": near - 1000 * slope}


def recomputed_window(
    *, model: str, window: int, **settings: Any
) -> Figures:  # Any: RunConfig fields by name
    """Return how many times as long a token takes (`ratio`) if its window is computed anew, not kept with its sinks."""
    price = _price(model, settings)
    return {"ratio": price.seconds(_prefill(window, 0)) / price.seconds(_decode(1, window))}


def roofline_scaling(*, model: str, gpu: str) -> Figures:
    """Return what is left of a time when something is doubled or halved.

    `bandwidth_kv`, `bandwidth_weights`: of reading KV and weights at twice the bandwidth; `flops_attention`: of a
    prefill's attention at twice the FLOPs; `fp8_kv`: of reading KV of half the bytes; `two_gpus`: of a decode step.
    """
    from dataclasses import replace

    from kvsim.gpu import find_gpu
    from kvsim.zoo import find_model

    shape, card = find_model(model), find_gpu(gpu)
    plain = _roofline(shape, card)
    wide = _roofline(shape, replace(card, bandwidth=2 * card.bandwidth))
    strong = _roofline(shape, replace(card, bf16_flops=2 * card.bf16_flops))
    empty, full = _decode(16, 0), _decode(16, 16 * 4096)
    short, long = _prefill(4096, 0), _prefill(4096, 4096)

    def reading(cost: CostModel) -> float:
        return cost.seconds(full) - cost.seconds(empty)

    def attending(cost: CostModel) -> float:
        return cost.seconds(long._replace(prefill_context=(0,))) - cost.seconds(
            short._replace(prefill_context=(0,))
        )

    pair = _roofline(shape, card, tensor_parallel_size=2)
    return {
        "bandwidth_kv": reading(wide) / reading(plain),
        "bandwidth_weights": wide.seconds(empty) / plain.seconds(empty),
        "flops_attention": attending(strong) / attending(plain),
        "fp8_kv": reading(_roofline(shape, card, kv_cache_dtype="fp8")) / reading(plain),
        "two_gpus": pair.seconds(full) / plain.seconds(full),
    }


def chunked_prefill(*, model: str, gpu: str, gpus: int, prompt: int, chunk: int) -> Figures:
    """Return by what `share` a prompt takes longer in chunks than in one piece, by the datasheet roofline."""
    from kvsim.gpu import find_gpu
    from kvsim.roofline import RooflineCost
    from kvsim.zoo import find_model

    shape = find_model(model)
    cost = RooflineCost(shape, find_gpu(gpu), shape.spans, tensor_parallel_size=gpus)
    pieces = [min(chunk, prompt - done) for done in range(0, prompt, chunk)]
    total = sum(cost.seconds(_prefill(size, sum(pieces[:place]))) for place, size in enumerate(pieces))
    return {"share": total / cost.seconds(_prefill(prompt, 0)) - 1}


def littles_law(*, workload: str, requests: int, rate: float, policy: str, **settings: Any) -> Figures:
    """Return the `gap` between ∫ requests in the system and Σ time in it, as a share; and all memory shares' `sum`."""
    # Any: RunConfig fields by name
    from kvsim.cli.validate_simulations import PARTS, replay

    run = replay(workload=workload, requests=requests, rate=rate, policy=policy, **settings)
    number = {name: float(value) for name, value in run.items() if isinstance(value, int | float)}
    inside = (number["running_mean"] + number["waiting_mean"]) * number["duration"]
    stayed = number["mean_e2el_ms"] * number["completed"] / 1e3
    return {"gap": abs(inside - stayed) / stayed, "sum": sum(number[part] for part in PARTS)}


def slower(*, workload: str, requests: int, rate: float, policy: str, **settings: Any) -> Figures:
    """Return the ratio of latencies when steps take twice as long and requests come half as often."""
    # Any: RunConfig fields by name
    from dataclasses import replace

    from kvsim.config import RunConfig
    from kvsim.cost_error import prepare_scaled
    from kvsim.summary import Columns, summarise
    from kvsim.traces.generate import generate

    work, config = generate(workload, requests, rate=rate, seed=0), RunConfig(**settings)
    found: list[dict[str, Any]] = []  # Any: numbers, since something has finished
    for factor in (1.0, 2.0):
        simulation = prepare_scaled(replace(work, arrival=work.arrival * factor), policy, config, factor)
        simulation.run()
        found.append(summarise(simulation, Columns.of(simulation)))
    one, two = found
    return {
        name: two[name] / one[name] for name in ("mean_ttft_ms", "mean_e2el_ms", "duration", "running_mean")
    }


def _bound(cost: CostModel, model: Model, gpu: Gpu, gpus: int) -> Figures:
    weights = (model.parameters - model.vocab * model.hidden) * model.weight_bytes / model.parameters / gpus
    flops = 2 * (model.active_parameters - model.embedding_parameters) / gpus
    decodes = [
        cost.seconds(_decode(count, count * length)) * gpu.bandwidth / moved
        for count in BATCHES
        for length in LENGTHS
        if (moved := weights + count * length * model.kv_bytes_per_token("auto", gpus)) < gpu.memory_bytes
    ]
    prefills = [cost.seconds(_prefill(tokens, 0)) * gpu.bf16_flops / (flops * tokens) for tokens in PROMPTS]
    return {"decode": min(decodes), "prefill": min(prefills)}


def _price(model: str, settings: dict[str, Any]) -> CostModel:  # Any: RunConfig fields by name
    from kvsim.config import RunConfig
    from kvsim.run import prepare_cost, prepare_policy, prepare_pool

    config = RunConfig(model=model, **settings)
    policy = prepare_policy("paged", config)
    policy.reset(prepare_pool(None, policy, config))
    return prepare_cost(config, policy)


def _profile(
    name: str,
) -> tuple[Any, CostModel]:  # Any: Profile, whose module is loaded inside functions only
    from kvsim.calibration.cost import ProfileCost
    from kvsim.calibration.profile_file import read_profile, shipped_profiles
    from kvsim.policy import Span

    found = read_profile(shipped_profiles()[name])
    return found, ProfileCost(found, (Span(None, 1),), page=16)


def _roofline(model: Model, gpu: Gpu, **more: Any) -> CostModel:  # Any: arguments of RooflineCost
    """Return the bound itself: a roofline at efficiency 1, without launch times."""
    from kvsim.roofline import Efficiency, RooflineCost

    bare = Efficiency(
        weight_bandwidth=1,
        kv_bandwidth=1,
        gemm=1,
        prefill_attention=1,
        attention_seconds=0,
        sequence_seconds=0,
    )
    return RooflineCost(model, gpu, model.spans, efficiency=bare, **more)


def _decode(count: int, context: int) -> Step:
    from kvsim.cost import Step

    return Step(count, context, count, (context,))


def _prefill(tokens: int, cached: int) -> Step:
    from kvsim.cost import Step

    area = tokens * cached + tokens * (tokens + 1) // 2
    return Step(tokens, cached + tokens, 0, (0,), 1, tokens, (cached + tokens,), (area,))
