"""JSON on standard output: one object, and nothing in it that JSON has no word for."""

from __future__ import annotations

import json
import math


def print_json(record: dict[str, object]) -> None:
    """Print one JSON object; what is not a finite number becomes null."""
    print(json.dumps(_plain(record), indent=2, allow_nan=False))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    item = getattr(value, "item", None)
    return _plain(item()) if callable(item) else str(value)
