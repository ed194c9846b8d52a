"""`kvsim policies`: the allocation policies that `--policy` knows, with their parameters."""

from __future__ import annotations

import json as json_text
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from kvsim.policy import Policy


def policies(
    *, json: Annotated[bool, Parameter(negative=(), help="Print one JSON object instead of text.")] = False
) -> None:
    """List the policies, built in and installed, with their parameters and defaults.

    Set a parameter after a colon, as in --policy contiguous:placement=buddy. A policy of your own needs no
    registration: --policy ./mine.py:MyPolicy or --policy my_package.module:MyPolicy.
    """
    from kvsim.registry import policies as known_policies

    records = [_record(name, cls) for name, cls in known_policies().items()]
    print(
        json_text.dumps({"policies": records}, indent=2, default=str)
        if json
        else "\n".join(map(_text, records))
    )


def _record(name: str, cls: type[Policy]) -> dict[str, object]:
    from kvsim.policy import parameter_defaults

    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    place = f"{cls.__module__}:{cls.__qualname__}"
    return {"policy": name, "summary": summary, "parameters": parameter_defaults(cls), "class": place}


def _text(record: dict[str, object]) -> str:
    parameters = record["parameters"]
    assert isinstance(parameters, dict)
    settings = [f"{name}={_word(value)}" for name, value in parameters.items()]
    lines = [f"{record['policy']}: {record['summary']}", *(f"    {setting}" for setting in settings)]
    return "\n".join(lines)


def _word(value: object) -> str:
    """Write a value as `--policy NAME:key=value` reads it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
