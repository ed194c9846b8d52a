"""Where a run folder's trace and policy came from, so that the run can be done again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.cli.trace_options import TraceOptions

if TYPE_CHECKING:
    from kvsim.policy import Policy
    from kvsim.result import Result


def remember(result: Result, policy: str, trace: Path, reading: TraceOptions) -> None:
    """Write down in the result how its trace was read, and the policy as it was asked for."""
    defaults = TraceOptions()
    options = {
        field.name: value
        for field in dataclasses.fields(reading)
        if (value := getattr(reading, field.name)) != getattr(defaults, field.name)
    }
    result.config["seed"] = reading.seed
    result.config["source"] = {"trace": str(trace.resolve()), "options": options, "policy": policy}


def remembered_trace(config: dict[str, Any]) -> tuple[Path | None, TraceOptions]:  # Any: JSON
    """Return the trace's path, None where that was not written down, and how it was read."""
    source = config.get("source", {})
    path = source.get("trace")
    return Path(path) if path else None, TraceOptions(**source.get("options", {}))


def remembered_policy(config: dict[str, Any]) -> Policy:  # Any: JSON
    """Build the run's policy again: from its text, or else from its name and parameters."""
    from kvsim.errors import InputError
    from kvsim.registry import make_policy, policies

    name, parameters = config["policy"], config["policy_parameters"]
    text = config.get("source", {}).get("policy")
    if text is not None:
        return make_policy(text, parameters)
    # A policy's own name may say more than the one it is registered under, as contiguous-oracle does.
    for known in policies():
        made = make_policy(known, parameters)
        if made.name == name and made.parameters() == parameters:
            return made
    raise InputError(f"the run's policy {name!r} with {parameters} is not known here")
