"""Arrival times drawn from a named process at a mean rate."""

from __future__ import annotations

import math

import numpy as np

from kvsim.errors import InputError
from kvsim.request import FloatColumn

PROCESSES = "poisson, gamma:CV, uniform or onoff:ON_S,OFF_S"
"""What an arrival specification may say."""


def source_of_chance(seed: int) -> np.random.Generator:
    """Return a generator for a seed that a user gave."""
    if seed < 0:
        raise InputError(f"seed must be a whole number from 0 up, got {seed}")
    return np.random.default_rng(seed)


def arrivals(spec: str, rows: int, rate: float, rng: np.random.Generator) -> FloatColumn:
    """Draw `rows` sorted arrival times in seconds, at `rate` a second on average.

    `poisson`: exponential gaps. `gamma:CV`: gamma gaps with that coefficient of variation, above 1 for
    bursts (ServeGen and vLLM's benchmark use the same family). `uniform`: one every 1/rate seconds, the
    first at 0. `onoff:ON_S,OFF_S`: Poisson during ON_S seconds, silence during OFF_S, and so on, fast
    enough in the on phase to keep the mean rate.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"rate must be a positive number of requests a second, got {rate}")
    name, _, text = spec.partition(":")
    values = _numbers(spec, text)
    if name == "poisson" and not values:
        return np.cumsum(rng.exponential(1 / rate, rows))
    if name == "uniform" and not values:
        return np.arange(rows) / rate
    if name == "gamma" and len(values) == 1 and values[0] > 0:
        shape = values[0] ** -2
        return np.cumsum(rng.gamma(shape, 1 / (rate * shape), rows))
    if name == "onoff" and len(values) == 2 and values[0] > 0 and values[1] >= 0:
        return _on_off(values[0], values[1], rows, rate, rng)
    raise _bad(spec)


def _on_off(on: float, off: float, rows: int, rate: float, rng: np.random.Generator) -> FloatColumn:
    """Draw times in the on phases, end to end, then put the silences between."""
    busy = np.cumsum(rng.exponential(on / (rate * (on + off)), rows))
    return busy + np.floor(busy / on) * off


def _numbers(spec: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise _bad(spec) from None
    if not all(math.isfinite(value) for value in values):
        raise _bad(spec)
    return values


def _bad(spec: str) -> InputError:
    return InputError(f"arrival process must be {PROCESSES} (CV, ON_S > 0; OFF_S ≥ 0), got {spec!r}")
