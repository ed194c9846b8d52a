"""Run one policy, or several, on one trace: the Python entry points."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kvsim.beam import Beam
from kvsim.config import RunConfig
from kvsim.cost import CostModel, parse_linear
from kvsim.engine import Simulation
from kvsim.errors import InputError
from kvsim.memory_map import MapRecorder
from kvsim.policy import Policy, Pool
from kvsim.registry import make_policy, policies
from kvsim.replica import StepRecord
from kvsim.request import Sequence as Running
from kvsim.request import Workload
from kvsim.result import Result
from kvsim.saturation import batch_capacity
from kvsim.scheduler import Limits

if TYPE_CHECKING:
    from kvsim.model import Model


def simulate(
    workload: Workload,
    policy: str | Policy = "paged",
    config: RunConfig | None = None,
    *,
    watch: Callable[[StepRecord], None] | None = None,
    attach: Callable[[Simulation], object] | None = None,
    measure_capacity: bool = True,
    memory_map: bool = False,
    **changes: Any,  # Any: RunConfig fields by name
) -> Result:
    """Replay a trace through one policy and return what happened.

    `policy` is a name with parameters (`"paged:block_size=32"`), `"module:Class"`, `"file.py:Class"`, or an
    object; `changes` are fields of `RunConfig`. `watch` is called with every step, `attach` once with the
    simulation before it runs. Batch capacity is measured in a second, saturated replay unless
    `measure_capacity` is false. With `memory_map` the result has one, unless the policy does not say what lies
    where. Raises InputError for settings that cannot work; a request that cannot is rejected, with its reason in
    the result.
    """
    config = (config or RunConfig()).changed(**changes)
    chosen = prepare_policy(policy, config)
    pool, limits = prepare_pool(workload, chosen, config), prepare_limits(config)
    chosen.reset(pool)
    cost = prepare_cost(config, chosen)
    simulation = Simulation(workload, chosen, limits, cost)
    simulation.replica.watch = watch
    if attach is not None:
        attach(simulation)
    recorder = MapRecorder(simulation) if memory_map else None
    simulation.run()
    result = Result.of(simulation, _describe(workload, chosen, pool, cost, config), config.goodput)
    if recorder is not None and (columns := recorder.columns()) is not None:
        result.more["memory_map"] = columns
    if measure_capacity:
        result.summary["batch_capacity"] = batch_capacity(workload, chosen.clone(), pool, limits)
    return result


def check_settings(policy: str | Policy, config: RunConfig) -> None:
    """Raise InputError for settings that cannot work, whatever the trace."""
    from kvsim.summary import goodput_limits

    chosen = prepare_policy(policy, config)
    prepare_limits(config)
    chosen.reset(prepare_pool(None, chosen, config))
    prepare_cost(config, chosen)
    if config.goodput is not None:
        goodput_limits(config.goodput)


def prepare_policy(policy: str | Policy, config: RunConfig) -> Policy:
    """Build the policy with the configuration's settings as defaults."""
    if isinstance(policy, Policy):
        return policy.clone()
    made = make_policy(policy, config.policy_defaults())
    takes = "enable_prefix_caching" in made.parameters()
    if config.enable_prefix_caching is not None and not takes:
        shares = made.shares_prefixes
        if config.enable_prefix_caching != shares:
            flag = "--enable-prefix-caching" if config.enable_prefix_caching else "--no-enable-prefix-caching"
            other = "prefix" if config.enable_prefix_caching else "paged"
            raise InputError(f"{flag} contradicts policy {made.name!r}; use --policy {other}")
    return made


def prepare_pool(workload: Workload | None, policy: Policy, config: RunConfig) -> Pool:
    """Size the KV memory for the model on the GPU, and say what the policy may know.

    Without a workload the pool is good for asking the policy whether it could work in it.
    """
    from kvsim.gpu import find_gpu
    from kvsim.memory import pool_bytes

    model, gpu = model_of(config), find_gpu(config.gpu)
    budget = config.budget(config.max_num_batched_tokens)
    size = config.tensor_parallel_size
    longest = model_len(config)
    _check_samples(policy, model, config)

    def true_tokens(sequence: Running) -> int:
        assert workload is not None
        row = sequence.index
        return min(int(workload.prompt_tokens[row] + workload.output_tokens[row]), longest) - 1

    return Pool(
        kv_bytes=pool_bytes(
            model, gpu, size, budget, block_size=config.block_size, kv_cache_dtype=config.kv_cache_dtype
        ),
        token_bytes=model.kv_bytes_per_token(config.kv_cache_dtype, size),
        max_model_len=longest,
        max_num_batched_tokens=config.max_num_batched_tokens,
        tensors_per_layer=2 if model.latent is None else 1,
        spans=model.spans,
        num_gpu_blocks_override=config.num_gpu_blocks_override,
        async_scheduling=config.async_scheduling,
        width=config.width,
        beam=prepare_beam(config),
        copy_bytes_per_second=gpu.bandwidth / 2,
        workload=workload,
        true_tokens=true_tokens if "oracle" in policy.name else None,
    )


def prepare_beam(config: RunConfig) -> Beam | None:
    """Return how beams fork; None without beams."""
    made = Beam(width=config.beam, turnover=config.beam_turnover, seed=config.beam_seed)
    return made if config.beam > 1 else None


def _check_samples(policy: Policy, model: Model, config: RunConfig) -> None:
    """Refuse samples and beams where they cannot be held."""
    if config.width == 1:
        return
    flag = "samples" if config.samples > 1 else "beam"
    if not policy.holds_samples:
        able = ", ".join(name for name, cls in policies().items() if cls.holds_samples)
        raise InputError(
            f"{flag} {config.width} needs a policy that can hold it ({able}), got {policy.name!r}"
        )
    if model.windows:
        raise InputError(
            f"{flag} {config.width} needs a model whose layers attend to everything; {model.name} has windows"
        )


def model_of(config: RunConfig) -> Model:
    """Return the configuration's model, with the weights it asks for."""
    return config.load_model(config.model)


def model_len(config: RunConfig) -> int:
    """Return the longest sequence: as asked for, or the model's own limit."""
    given = config.max_model_len
    return given if given is not None else model_of(config).max_position_embeddings


def prepare_limits(config: RunConfig) -> Limits:
    """Return the scheduler's limits; InputError where they contradict each other."""
    return Limits(
        max_model_len=model_len(config),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        enable_chunked_prefill=config.enable_chunked_prefill,
        long_prefill_token_threshold=config.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=config.long_prefill_token_threshold_adaptive,
        scheduling_policy=config.scheduling_policy,
        scheduler=config.scheduler,
        async_scheduling=config.async_scheduling,
        width=config.width,
        vllm_version=config.vllm_version,
    )


def prepare_cost(config: RunConfig, policy: Policy) -> CostModel:
    """Return the step cost that `config.cost` names, for the spans the policy attends to."""
    kind, _, name = config.cost.partition(":")
    if kind == "linear":
        return parse_linear(config.cost)
    if kind != "roofline":
        # By name, since the core knows none of the packages that build on it.
        cost: CostModel = importlib.import_module("kvsim.calibration.cost_choice").profile_cost(
            config, policy
        )
        return cost
    from kvsim.gpu import find_gpu
    from kvsim.roofline import RooflineCost

    return RooflineCost(
        model_of(config),
        find_gpu(name or config.gpu),
        policy.attention,
        kv_cache_dtype=config.kv_cache_dtype,
        tensor_parallel_size=config.tensor_parallel_size,
    )


def _describe(
    workload: Workload, policy: Policy, pool: Pool, cost: CostModel, config: RunConfig
) -> dict[str, object]:
    name = getattr(workload, "name", "")
    digest = getattr(workload, "sha256", None)
    return {
        "policy": policy.name,
        "policy_parameters": policy.parameters(),
        "trace": {"name": name, "requests": len(workload), "sha256": digest() if callable(digest) else None},
        "pool": {"kv_bytes": pool.kv_bytes, "token_bytes": pool.token_bytes, "slots": policy.capacity},
        "cost": cost.label,
        "cost_notes": list(getattr(cost, "notes", ())),
        "settings": asdict(config),
    }


def policies_named(texts: Sequence[str]) -> list[str]:
    """Check that policies differ, so that a table's columns can be told apart."""
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            raise InputError(f"policy {text!r} is named twice")
        seen.add(text)
    if not seen:
        raise InputError("no policy is named")
    return list(texts)
