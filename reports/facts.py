"""Where the numbers come from: trace, model, GPU, step cost and settings of every run, each with its basis."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from kvsim.config import RunConfig

BASES = {
    "given": "as the user or the trace says",
    "measured": "timed on hardware",
    "calibrated": "fitted to timed kernels",
    "computed": "follows from the inputs, by simulation or arithmetic",
    "assumed": "taken from a datasheet or a rule of thumb, not checked",
}
MOST_VALUES = 6
"""Values of a fact that a sweep names."""


class Origin(NamedTuple):
    """What one run, or one cell of a sweep, says of itself."""

    name: str
    config: dict[str, Any]  # Any: JSON
    environment: dict[str, str]
    inside: float | None
    """Share of the steps within what the cost profile measured; None for a cost that measured nothing."""
    folder: str


class Fact(NamedTuple):
    """One line of provenance."""

    name: str
    basis: str
    """One of BASES."""
    values: tuple[str, ...]
    """One for all runs, or one a run; empty where a run has none."""


def cost_basis(label: str) -> str:
    """Return what a cost model's label says its figures are: measured, calibrated or assumed."""
    found = re.findall(r"measured|calibrated|assumed", label.replace("not measured", ""))
    return found[-1] if found else "assumed"


def basis_of(origins: Sequence[Origin]) -> str:
    """Return the weakest basis of the runs' step costs; empty without runs."""
    found = {cost_basis(str(origin.config["cost"])) for origin in origins}
    return next((word for word in ("assumed", "calibrated", "measured") if word in found), "")


def facts(origins: Sequence[Origin]) -> list[Fact]:
    """Return the provenance of runs, one value where all agree."""
    if not origins:
        return []
    lines = [_provenance(origin) for origin in origins]
    found = [_fact(name, [line[name] for line in lines]) for name in lines[0]]
    return [fact for fact in found if any(fact.values)]


def sweep_facts(origins: Sequence[Origin]) -> list[Fact]:
    """Return the provenance of a sweep's cells, different values side by side."""
    found = []
    for fact in facts(origins):
        short = fact.name == "Trace SHA-256" and len(fact.values) > 1
        values = list(dict.fromkeys(value[:12] if short else value for value in fact.values if value))
        more = [f"and {len(values) - MOST_VALUES} more"] if len(values) > MOST_VALUES else []
        found.append(fact._replace(values=("; ".join(values[:MOST_VALUES] + more),)))
    return found


def setting_facts(origins: Sequence[Origin]) -> list[Fact]:
    """Return all settings, policy parameters first."""
    if not origins:
        return []
    found = [_fact("policy", [(str(origin.config["policy"]), "given") for origin in origins])]
    for place, head in (("policy_parameters", "policy: "), ("settings", "")):
        given: list[dict[str, Any]] = [origin.config[place] for origin in origins]
        for name in dict.fromkeys(name for one in given for name in one):
            values = [(_word(one[name]) if name in one else "", "given") for one in given]
            found.append(_fact(f"{head}{name}", values))
    return found


def changed_settings(origins: Sequence[Origin]) -> list[str]:
    """Return the names of the settings that are not at their defaults in some run."""
    defaults = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    return [
        name
        for name, default in defaults.items()
        if any(origin.config["settings"].get(name, default) != default for origin in origins)
    ]


def _fact(name: str, values: list[tuple[str, str]]) -> Fact:
    texts = [text for text, _ in values]
    return Fact(name, values[0][1], tuple(texts[:1] if len(set(texts)) == 1 else texts))


def _provenance(origin: Origin) -> dict[str, tuple[str, str]]:
    config, environment = origin.config, origin.environment
    trace, settings = config["trace"], config["settings"]
    gpus = settings["tensor_parallel_size"]
    cost = str(config["cost"])
    platform = [environment[name] for name in ("python", "numpy", "platform") if name in environment]
    return {
        "Trace": (f"{trace['name']}, {trace['requests']:,} requests", "given"),
        "Trace SHA-256": (str(trace["sha256"] or ""), "computed"),
        "Seed": (str(config.get("seed", 0)), "given"),
        "Model": (str(settings["model"]), "given"),
        "GPU": (str(settings["gpu"]) if gpus == 1 else f"{gpus} × {settings['gpu']}", "given"),
        "KV pool": _pool(config["pool"], settings),
        "Step cost": (cost, cost_basis(cost)),
        "Step cost, error": (_error(cost), cost_basis(cost)),
        "Step cost, what its error means": (
            str((config.get("cost_band") or {}).get("words", "")),
            "computed",
        ),
        "Step cost, notes": ("; ".join(map(str, config.get("cost_notes", ()))), cost_basis(cost)),
        "Steps inside what the cost profile measured": (
            "" if origin.inside is None else f"{origin.inside:.1%}",
            "computed",
        ),
        "Ended early": (str(config.get("ended_early") or ""), "computed"),
        "kvsim": (environment.get("kvsim", ""), "given"),
        "Python, numpy, platform": (", ".join(platform), "given"),
        "Folder": (origin.folder, "given"),
    }


def _pool(pool: dict[str, int], settings: dict[str, Any]) -> tuple[str, str]:
    decreed = settings["kv_cache_memory_bytes"] is not None or settings["num_gpu_blocks_override"] is not None
    size, token = pool["kv_bytes"], pool["token_bytes"]
    text = f"{size / 2**30:,.2f} GiB a GPU, {size // token:,} tokens of {token:,} bytes"
    return text, "computed" if decreed else "assumed"


def _error(cost: str) -> str:
    """Return what a cost label says of its error."""
    known = re.search(r"decode steps off by [\d.]+ ?% on held-out points|of unknown error", cost)
    if known:
        return known.group().removeprefix("of ")
    return "unknown: nothing was measured" if cost_basis(cost) == "assumed" else "unknown"


def _word(value: Any) -> str:  # Any: what a setting holds
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
