"""What a fidelity check needs before it can start: weights, KV store, engines, simulations and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.calibration.cost import ProfileCost
    from kvsim.calibration.fidelity import Planned
    from kvsim.calibration.fidelity_executor import EngineExecutor
    from kvsim.calibration.kv_store import KvStore
    from kvsim.calibration.measured_device import Device
    from kvsim.calibration.mini_engine_weights import Weights
    from kvsim.calibration.profile import Profile
    from kvsim.calibration.readings import Sensors
    from kvsim.cli.calibrate_fidelity import FidelityOptions
    from kvsim.cli.calibrate_fidelity_choice import Chosen
    from kvsim.cli.calibrate_fidelity_runs import Layout, Setting
    from kvsim.model import Model
    from kvsim.policy import Policy

KV_SHARE = 0.6
"""Of the memory that weights leave; the rest is for activations and graphs."""


@dataclass(slots=True, kw_only=True)
class Setup:
    """Everything that is decided before the first step is executed."""

    profile: Profile
    """Of as many layers as are executed, without host time, which the device does not show."""
    device: Device
    sensors: Sensors
    layouts: list[Layout]
    setting: Setting
    kv_dtype: str
    executor: EngineExecutor
    is_representative: bool
    about: dict[str, Any]  # Any: JSON
    warnings: list[str]

    def plan(self) -> list[Planned]:
        """Simulate every layout and pick its steps; what the costs have to say becomes warnings."""
        from kvsim.cli.calibrate_fidelity_runs import plan_layout

        made: list[ProfileCost] = []

        def cost_of(layout: Layout, policy: Policy) -> ProfileCost:
            made.append(layout_cost(self.profile, layout, policy, self.kv_dtype))
            return made[-1]

        found = [each for layout in self.layouts for each in plan_layout(layout, self.setting, cost_of)]
        self.warnings += dict.fromkeys(
            note for cost in made for note in cost.notes if note not in self.warnings
        )
        return found


def layout_cost(profile: Profile, layout: Layout, policy: Policy, kv_dtype: str) -> ProfileCost:
    """Return what the profile charges a layout."""
    from kvsim.calibration.cost import ProfileCost

    page = layout.pool.page if policy.kv_layout == "paged" else None
    return ProfileCost(profile, policy.attention, layout=policy.kv_layout, page=page, kv_dtype=kv_dtype)


def prepare(chosen: Chosen, options: FidelityOptions, device: Device, seed: int) -> Setup:
    """Draw weights and KV, and make the engines."""
    from kvsim.calibration.readings import sensors_of
    from kvsim.cli.calibrate_fidelity_choice import remarks_on
    from kvsim.cli.calibrate_fidelity_runs import Setting

    weights, sets = _weights(chosen.model, options, device, seed)
    store = _store(chosen, options, device, seed)
    warnings, is_representative = remarks_on(chosen, device, sets)
    sensors = sensors_of(device)
    setting = Setting(
        model=chosen.model, workload=chosen.workload, config=chosen.config, per_kind=options.steps,
        kv_tokens=store.tokens // chosen.model.layers,
    )  # fmt: skip
    return Setup(
        profile=chosen.profile, device=device, sensors=sensors, layouts=chosen.layouts, setting=setting,
        kv_dtype=chosen.kv_dtype, executor=_executor(weights, store, chosen, options.backend, device, seed),
        is_representative=is_representative, warnings=warnings,
        about=_about(chosen, setting, device, sensors) | {"weight_sets": sets, "seed": seed},
    )  # fmt: skip


def _about(chosen: Chosen, setting: Setting, device: Device, sensors: Sensors) -> dict[str, object]:
    from kvsim.calibration.measured_device import device_record, software_record

    config, model, workload = chosen.config, chosen.model, chosen.workload
    return {
        "profile": chosen.given.title, "profile_source": dict(chosen.given.source),
        "device": device_record(device) | sensors.facts, "software": software_record(),
        "model": model.name, "layers": model.layers, "of_layers": chosen.whole.layers, "dtype": model.dtype,
        "kv_dtype": chosen.kv_dtype, "kv_tokens": setting.kv_tokens,
        "trace": getattr(workload, "name", ""), "requests": len(workload),
        "max_model_len": config.max_model_len, "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
    }  # fmt: skip


def _weights(model: Model, options: FidelityOptions, device: Device, seed: int) -> tuple[Weights, int]:
    from kvsim.calibration.measured_device import free_bytes
    from kvsim.calibration.mini_engine_weights import Weights, sets_that_fit

    sets = model.layers if device.type == "cpu" else sets_that_fit(model, free_bytes(device))
    sets = min(options.weight_sets or sets, model.layers)
    return Weights(model, device=device, sets=sets, seed=seed), sets


def _store(chosen: Chosen, options: FidelityOptions, device: Device, seed: int) -> KvStore:
    from kvsim.calibration.case import KV_ELEMENT_BYTES
    from kvsim.calibration.kv_store import KvStore
    from kvsim.calibration.measured_device import free_bytes

    model, longest = chosen.model, int(chosen.config.max_model_len or 0)
    tokens = chosen.config.max_num_seqs * longest
    if device.type == "cuda":
        elements = 2 * model.layers * model.kv_heads * model.head_dim
        tokens = min(
            tokens, int(KV_SHARE * free_bytes(device)) // (elements * KV_ELEMENT_BYTES[chosen.kv_dtype])
        )
    tokens = options.kv_tokens or tokens
    if tokens < longest:
        raise InputError(
            f"a KV pool of {tokens} tokens does not hold one sequence of {longest}; lower --max-model-len or --layers"
        )
    return KvStore(
        tokens=model.layers * tokens, kv_heads=model.kv_heads, head_size=model.head_dim,
        kv_dtype=chosen.kv_dtype, device=device, seed=seed,
    )  # fmt: skip


def _executor(
    weights: Weights, store: KvStore, chosen: Chosen, backend: str, device: Device, seed: int
) -> EngineExecutor:  # fmt: skip
    """Make an engine a layout; decodes and prompts share a launch where the profile timed such a kernel."""
    from kvsim.calibration.fidelity_executor import EngineExecutor, chooser
    from kvsim.calibration.mini_engine import MiniEngine
    from kvsim.calibration.mini_engine_memory import EngineMemory

    choose = chooser(device, backend, seed)
    fuses = any(kind.op == "attn_mixed" for kind in chosen.profile.fits.attention)
    most = int(chosen.config.max_model_len or 0)
    engines = {
        layout.name: MiniEngine(
            weights, EngineMemory(store, layout.pool), choose, most_positions=most, fuses=fuses
        )
        for layout in chosen.layouts
    }
    return EngineExecutor(engines, device, seed)
