"""The settings of a run as flags: under which heading `--help` shows each, and which a file may give."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, ArgumentCollection, Group, Parameter, Token

from kvsim.config import RunConfig, read_config

TRACE = Group("Trace", sort_key=1)
HARDWARE = Group("Model, GPU and memory", sort_key=2)
POLICY = Group("Policy", sort_key=3)
ENGINE = Group("Engine", sort_key=4)
OUTPUT = Group("Output", sort_key=5)
FILE = Group("Settings from a file", sort_key=6)

HEADINGS: dict[Group, tuple[str, ...]] = {
    HARDWARE: (
        "model", "gpu", "kv_cache_dtype", "weight_dtype", "weight_bytes", "tensor_parallel_size",
        "gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override",
    ),
    POLICY: (
        "block_size", "watermark", "enable_prefix_caching", "prefix_cache_retention_interval", "kv_groups",
    ),
    ENGINE: (
        "cost", "allow_unrepresentative", "max_model_len", "max_num_seqs", "max_num_batched_tokens",
        "enable_chunked_prefill",
        "long_prefill_token_threshold", "long_prefill_token_threshold_adaptive", "scheduler_reserve_full_isl",
        "scheduler", "scheduling_policy", "async_scheduling", "samples", "beam", "beam_turnover", "beam_seed",
        "vllm_version",
    ),
    OUTPUT: ("goodput",),
}  # fmt: skip
"""Fields of RunConfig by heading, in the order in which they are shown."""


def _flags() -> type[RunConfig]:
    """Return RunConfig with every field under its heading; kvsim.config need not know of flags."""
    hints = typing.get_type_hints(RunConfig)
    defaults = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    fields = [
        (name, Annotated[hints[name], Parameter(group=group)], dataclasses.field(default=defaults[name]))
        for group, names in HEADINGS.items()
        for name in names
    ]
    made = dataclasses.make_dataclass(
        "RunFlags", fields, bases=(RunConfig,), namespace={"__module__": __name__}, frozen=True, kw_only=True
    )
    order = vars(made)["__dataclass_fields__"]
    # Inherited fields come first otherwise, and --model after all that follows from it.
    for name, *_ in fields:
        order[name] = order.pop(name)
    return made


if TYPE_CHECKING:
    RunFlags = RunConfig
else:
    RunFlags = _flags()

NO_FLAGS = RunFlags()

Flags = Annotated[RunFlags, Parameter(name="*")]
"""All settings of a run, as parameters of a command."""
Json = Annotated[
    bool, Parameter(negative=(), group=OUTPUT, help="Print one JSON object: settings and summary.")
]
ConfigFile = Annotated[
    Path | None,
    Parameter(
        name="--config",
        group=FILE,
        help="TOML file of settings, as in block_size = 32 for --block-size 32; a flag overrides its line.",
    ),
]
"""Where `fill_from_file` looks."""


def settings(flags: RunConfig) -> RunConfig:
    """Return what flags say as a plain RunConfig, which worker processes can be sent."""
    return RunConfig(**{name: getattr(flags, name) for names in HEADINGS.values() for name in names})


def fill_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take from the file that `--config` names what no flag says; cyclopts calls this before it converts."""
    del app, commands
    if not arguments["--config"].tokens:
        return
    path = Path(arguments["--config"].tokens[-1].value)
    given = read_config(path)
    for field in dataclasses.fields(given):
        value: Any = getattr(given, field.name)  # Any: as TOML has it; converted from text like a flag
        argument = arguments[f"--{field.name.replace('_', '-')}"]
        if value != field.default and not argument.tokens:
            argument.append(Token(keyword=argument.name, value=str(value), source=str(path)))
