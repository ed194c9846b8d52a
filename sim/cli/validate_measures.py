"""The named measures that rows of `published.toml` refer to, and how one is called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.validate_memory import Figures

HOMES = {
    "kvsim.validate_memory": (
        "kv_bytes", "kv_saving", "pool", "concurrency", "blocks_by_decree", "cpu_blocks", "block_bytes", "memory_split",
        "estimated_pool", "weight_share", "reservation", "page_group", "virtual_memory", "uniform_waste",
        "layer_groups", "padding_to", "hybrid_blocks", "window_blocks", "longest_sequence", "distserve_tokens",
        "in_flight", "closed_loop",
    ),
    "kvsim.cli.validate_traces": ("trace_facts", "workload_facts", "reuse_facts", "lru_facts", "worked_example"),
    "kvsim.cli.validate_physics": (
        "profile_bound", "roofline_bound", "profile_error", "decode_cost", "roofline_scaling", "chunked_prefill",
        "recomputed_window", "littles_law", "slower",
    ),
    "kvsim.cli.validate_simulations": (
        "replay", "replay_ratio", "saturated", "ranking", "fixed_service", "recorded_logs",
    ),
    "kvsim.cli.validate_caches": ("swap_or_recompute", "shared_prefixes", "eviction_order", "tier_gain"),
}  # fmt: skip
"""Measures by the module they are in, quick ones first: the order in which they are run."""
ORDER = [name for names in HOMES.values() for name in names]
FILES = ("trace", "manifest")
"""Parameters that name a file among the public traces."""


class Job(NamedTuple):
    """One call of a measure, which several rows may ask for."""

    measure: str
    parameters: str
    """As JSON, so that jobs can be compared."""


class TraceMissingError(InputError):
    """A file of the public traces is not there."""


def measure_function(name: str) -> Callable[..., Figures]:
    """Return a measure by name."""
    home = next(module for module, names in HOMES.items() if name in names)
    found: Callable[..., Figures] = getattr(importlib.import_module(home), name)
    return found


def call_measure(name: str, parameters: Mapping[str, Any], traces: Path) -> Figures:  # Any: what TOML holds
    """Call a measure with a row's parameters; raise TraceMissingError for a file that is not there."""
    given = {key: _find(value, traces) if key in FILES else value for key, value in parameters.items()}
    return measure_function(name)(**given)


def check_parameters(name: str, parameters: Mapping[str, Any]) -> None:  # Any: what TOML holds
    """Raise TypeError for parameters that a measure does not take, or lacks."""
    inspect.signature(measure_function(name)).bind(**parameters)


def _find(name: str, traces: Path) -> Path:
    """Return a file by its place among the public traces, or by its name alone, as downloads lie."""
    for path in (traces / name, traces / Path(name).name):
        if path.exists():
            return path
    from kvsim.traces.fetch import known

    fetched = [each.name for each in known().values() if each.file_name == Path(name).name]
    hint = f"; `kvsim trace fetch {fetched[0]}` downloads it" if fetched else ""
    raise TraceMissingError(f"needs {name} in {traces}{hint}")
