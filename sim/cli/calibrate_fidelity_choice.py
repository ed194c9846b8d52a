"""What a fidelity check executes: which model, layers, limits and layouts, and what must be said of the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.calibration.fidelity import TimedStep
    from kvsim.calibration.measured_device import Device
    from kvsim.calibration.profile import Profile
    from kvsim.cli.calibrate_fidelity import FidelityOptions
    from kvsim.cli.calibrate_fidelity_runs import Layout
    from kvsim.cli.trace_options import TraceOptions
    from kvsim.config import RunConfig
    from kvsim.model import Model
    from kvsim.request import Workload

CPU_LAYERS = 2
DEFAULTS = {
    "cuda": {"max_model_len": 8192, "max_num_seqs": 256, "max_num_batched_tokens": 2048},
    "cpu": {"max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 96},
}
"""By kind of device, where no flag says otherwise."""


class Chosen(NamedTuple):
    """What is executed and what predicts it."""

    given: Profile
    """As it was read."""
    profile: Profile
    """Of as many layers as are executed, without host time, which the device does not show."""
    whole: Model
    model: Model
    """Its layers that are executed."""
    config: RunConfig
    """Limits of the scheduler."""
    layouts: list[Layout]
    kv_dtype: str
    workload: Workload


def choose(
    name: str, trace: Path | None, options: FidelityOptions, reading: TraceOptions, device: Device
) -> Chosen:
    """Read the profile and decide everything that needs no memory."""
    from kvsim.calibration.profile_file import read_profile, shipped_profiles

    given = read_profile(shipped_profiles().get(name, Path(name)))
    whole, model = models_of(given, options, device)
    profile = executed_profile(given, model)
    config = config_of(options, model, device)
    layouts = layouts_for(given, options, model, config)
    kv_dtype = model.dtype if options.kv_cache_dtype == "auto" else options.kv_cache_dtype
    check_kv_dtype(kv_dtype)
    workload = _workload(trace, reading, profile, model, config, kv_dtype)
    return Chosen(given, profile, whole, model, config, layouts, kv_dtype, workload)


def _workload(
    trace: Path | None, reading: TraceOptions, profile: Profile, model: Model, config: RunConfig, kv_dtype: str
) -> Workload:  # fmt: skip
    from kvsim.calibration.cost import ProfileCost
    from kvsim.cli.calibrate_fidelity_trace import drawn_trace

    if trace is not None:
        return reading.load(trace)
    cost = ProfileCost(profile, model.spans, page=16, kv_dtype=kv_dtype)
    longest = int(config.max_model_len or 0)
    return drawn_trace(longest, config.max_num_seqs, cost, len(model.spans), reading.seed)


def models_of(profile: Profile, options: FidelityOptions, device: Device) -> tuple[Model, Model]:
    """Return the whole model, and the one of the layers that are executed."""
    from kvsim.calibration.case import DTYPES
    from kvsim.zoo import find_model

    own = profile.model
    if profile.tensor_parallel_size > 1:
        raise InputError(
            f"profile of {profile.title}: fidelity executes on one GPU; take a profile of one GPU"
        )
    if own.weight_dtype not in DTYPES:
        raise InputError(
            f"profile of {profile.title}: weights are {own.weight_dtype}, whose products are not executed"
        )
    try:
        found = find_model(options.model or own.name)
    except InputError:
        if options.model is not None:
            raise
        found = replace(own, max_position_embeddings=DEFAULTS["cuda"]["max_model_len"])
    _check_shape(own, found, profile)
    whole = replace(found, dtype=own.dtype, weight_dtype=own.weight_dtype, gated=own.gated)
    layers = options.layers or (whole.layers if device.type == "cuda" else min(CPU_LAYERS, whole.layers))
    if layers > whole.layers:
        raise InputError(f"layers must be at most the model's {whole.layers}, got {layers}")
    windows = whole.windows[:layers]
    if set(windows) != set(whole.windows):
        least = max(whole.windows.index(window) for window in set(whole.windows)) + 1
        raise InputError(
            f"layers must be at least {least}, so that {whole.name} has every window, got {layers}"
        )
    return whole, replace(whole, layers=layers, windows=windows, known_weight_bytes=None)


def _check_shape(own: Model, found: Model, profile: Profile) -> None:
    from kvsim.calibration.profile_file import SHAPE

    for field in (*SHAPE, "gated"):
        wanted, got = getattr(own, field), getattr(found, field)
        if wanted != got:
            raise InputError(
                f"profile of {profile.title} has {field} {wanted}, model {found.name} has {got}; "
                "name the right one with --model"
            )


def executed_profile(profile: Profile, model: Model) -> Profile:
    """Return the profile of as many layers, without what the host adds: events on the device do not see it."""
    launch = {name: curve for name, curve in profile.fits.launch.items() if name != "host"}
    gaps = {name: value for name, value in profile.host.items() if name.endswith("_gap") or name == "source"}
    fits = replace(profile.fits, launch=launch)
    return replace(profile, model=replace(profile.model, layers=model.layers), fits=fits, host=gaps)


def config_of(options: FidelityOptions, model: Model, device: Device) -> RunConfig:
    """Return the scheduler's limits: as asked for, else what suits the device."""
    from kvsim.config import RunConfig

    chosen = dict(DEFAULTS[device.type])
    chosen["max_model_len"] = min(chosen["max_model_len"], model.max_position_embeddings)
    for name in chosen:
        chosen[name] = getattr(options, name) or chosen[name]
    if chosen["max_model_len"] > model.max_position_embeddings:
        raise InputError(
            f"max_model_len must be at most the {model.max_position_embeddings} tokens of {model.name}, "
            f"got {chosen['max_model_len']}"
        )
    return RunConfig(**chosen)  # type: ignore[arg-type]


def layouts_for(profile: Profile, options: FidelityOptions, model: Model, config: RunConfig) -> list[Layout]:
    """Return the layouts asked for, paged ones in the page sizes that the profile timed unless others are named."""
    from kvsim.cli.calibrate_fidelity_runs import layouts_of

    if options.pages is None:
        kinds = profile.fits.attention
        timed = {kind.page for kind in kinds if kind.layout == "paged" and kind.op == "attn_decode"}
        pages = sorted(page for page in timed if page is not None) or [16]
    else:
        try:
            pages = [int(text) for text in options.pages.split(",")]
        except ValueError:
            pages = [0]
        if min(pages) < 1 or any(page & (page - 1) for page in pages):
            raise InputError(f"pages must be powers of two with commas, got {options.pages!r}")
    wanted = [text.strip() for text in options.layouts.split(",")]
    return layouts_of(model, wanted, pages, int(config.max_model_len or 0))


def check_kv_dtype(kv_dtype: str) -> None:
    """Raise InputError for a dtype that no kernel here reads."""
    from kvsim.calibration.case import KV_ELEMENT_BYTES

    if kv_dtype not in KV_ELEMENT_BYTES:
        raise InputError(
            f"KV cache dtype must be auto or one of {', '.join(KV_ELEMENT_BYTES)}, got {kv_dtype!r}"
        )


def remarks_on(chosen: Chosen, device: Device, sets: int) -> tuple[list[str], bool]:
    """Return what must be said of this check, and whether it tells anything about a GPU."""
    from kvsim.calibration.measured_device import device_record, kvsim_name

    given, whole, model = chosen.given, chosen.whole, chosen.model
    found = [] if given.representative else ["the profile is not representative: no GPU was measured"]
    if whole.source == given.model.source:
        found.append(
            f"model {whole.name} is not built in, so every layer is taken to attend to everything; --model names "
            "its config.json"
        )
    if model.layers < whole.layers:
        found.append(f"{model.layers} of {whole.layers} layers are executed; predictions are for as many")
    if device.type != "cuda":
        return ["not representative: executed on the CPU, to try the machinery out", *found], False
    name = str(device_record(device)["name"])
    is_same = given.gpu in (kvsim_name(name), name)
    other = [] if is_same else [f"the profile is of {given.gpu}, this device is {name}"]
    found = [*other, *found, *_other_software(given), *_warm_weights(model, sets, device)]
    return found, is_same and given.representative


def _other_software(profile: Profile) -> list[str]:
    from kvsim.calibration.measured_device import software_record

    software, found = software_record(), []
    for part in ("torch", "triton", "cudnn"):
        there, here = profile.software.get(part), software.get(part)
        if there is not None and there != here:
            found.append(f"the profile was made with {part} {there}, here is {here}")
    return found


def _warm_weights(model: Model, sets: int, device: Device) -> list[str]:
    from kvsim.calibration.measured_device import l2_bytes
    from kvsim.calibration.mini_engine_weights import is_cold

    if is_cold(model, sets, l2_bytes(device)):
        return []
    return [
        f"{sets} sets of layer weights fit the L2 cache in part: steps may be faster than with cold weights; "
        "raise --weight-sets or --layers"
    ]


def other_kernels(profile: Profile, steps: Sequence[TimedStep]) -> list[str]:
    """Say which attention kernels ran that the profile's points were not timed with."""
    timed = {part for point in profile.points if point.q for part in point.backend.split("+")}
    ran = {name for step in steps for name in step.backends}
    if not any(timed) or ran <= timed:
        return []
    return [f"attention ran on {', '.join(sorted(ran))}; the profile timed {', '.join(sorted(timed))}"]
