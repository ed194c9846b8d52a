"""Which profile `--cost` names, and whether it may price this run."""

from __future__ import annotations

import os
from pathlib import Path

from kvsim.calibration.attention_kinds import SIXTEEN_BITS
from kvsim.calibration.cost import ProfileCost
from kvsim.calibration.profile import Profile
from kvsim.calibration.profile_file import SHAPE, read_profile, shipped_profiles
from kvsim.config import RunConfig
from kvsim.errors import InputError, nearest
from kvsim.model import Model
from kvsim.policy import Policy

CAPTURED_A_SEQUENCE = 2
"""vLLM captures graphs of up to min(2 · max_num_seqs, 512, max_num_batched_tokens) tokens (`vllm/config/vllm.py`)."""
BY_HARDWARE = "calibrated"
"""Stands for the shipped profile of the run's GPU, model and number of GPUs."""


def profile_cost(config: RunConfig, policy: Policy) -> ProfileCost:
    """Return the cost that `config.cost` names: a path, a shipped profile's name, or `calibrated`."""
    profile = find_profile(config.cost, config)
    model = config.load_model(config.model)
    check_profile(profile, model, config)
    kv_dtype = model.dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
    try:
        return ProfileCost(
            profile,
            policy.attention,
            layout=policy.kv_layout,
            page=None if policy.kv_layout == "contiguous" else getattr(policy, "block_size", None),
            kv_dtype=kv_dtype,
            overlaps_host=config.async_scheduling,
            most_captured=min(CAPTURED_A_SEQUENCE * config.max_num_seqs, config.max_num_batched_tokens),
        )
    except InputError as error:
        raise InputError(f"cost profile {config.cost!r}: {error}") from error


def find_profile(name: str, config: RunConfig) -> Profile:
    """Read the profile that a name or path stands for."""
    shipped = shipped_profiles()
    if name == BY_HARDWARE:
        name = _by_hardware(shipped, config)
    if name in shipped:
        return read_profile(shipped[name])
    path = Path(name)
    if path.is_file() or name.endswith((".json", ".json.gz")) or (os.sep in name and path.exists()):
        return read_profile(path)
    raise InputError(
        f"cost must be roofline, roofline:GPU or linear:A,B,C, got {name!r}; a profile would be a path, {BY_HARDWARE}, "
        f"or a name that `kvsim calibrate show` lists{nearest(name, shipped)}"
    )


def check_profile(profile: Profile, model: Model, config: RunConfig) -> None:
    """Raise InputError for a profile of another model, dtype or number of GPUs, or one that measured no GPU."""
    for field in (*SHAPE, "gated"):
        found, wanted = getattr(profile.model, field), getattr(model, field)
        if found != wanted:
            raise InputError(
                f"cost profile {config.cost!r} is of another model: {profile.model.name} has {field} {found}, "
                f"{model.name} has {wanted}"
            )
    dtypes = [SIXTEEN_BITS.get(each.weight_dtype, each.weight_dtype) for each in (profile.model, model)]
    if dtypes[0] != dtypes[1]:
        raise InputError(
            f"cost profile {config.cost!r} is of {profile.model.weight_dtype} weights, "
            f"the run's are {model.weight_dtype}"
        )
    if profile.tensor_parallel_size != config.tensor_parallel_size:
        raise InputError(
            f"cost profile {config.cost!r} is of tensor_parallel_size {profile.tensor_parallel_size}, "
            f"the run has {config.tensor_parallel_size}"
        )
    if not profile.representative and not config.allow_unrepresentative:
        raise InputError(
            f"cost profile {config.cost!r} was measured on {profile.gpu} and does not represent a GPU; "
            "--allow-unrepresentative takes it all the same"
        )


def _by_hardware(shipped: dict[str, Path], config: RunConfig) -> str:
    """Return the name of the shipped profile of this GPU, model and degree; a folder may name the GPU's family."""
    size = config.tensor_parallel_size
    wanted = f"{config.model}{'' if size == 1 else f'-tp{size}'}"
    fitting = [
        name
        for name in shipped
        if name.partition("/")[2] == wanted
        and (config.gpu == name.partition("/")[0] or config.gpu.startswith(f"{name.partition('/')[0]}-"))
    ]
    if not fitting:
        raise InputError(
            f"no shipped profile of {config.gpu}/{wanted}; there are {', '.join(shipped) or 'none'}; "
            "measure one with `kvsim calibrate run` or import tables with `kvsim calibrate import`"
        )
    return max(fitting, key=len)
