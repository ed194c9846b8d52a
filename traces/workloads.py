"""Named workloads: lengths of prompts and answers, and what they share."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from kvsim.errors import InputError, nearest
from kvsim.request import FloatColumn, IntColumn


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A distribution, as points of its quantile function joined by lines."""

    points: tuple[tuple[float, float], ...]
    """(percent, value), rising in both, from 0 to 100 percent."""

    @property
    def mean(self) -> float:
        """Expected value before rounding: the area under the quantile function."""
        pairs = zip(self.points, self.points[1:], strict=False)
        return sum((high - low) / 100 * (start + end) / 2 for (low, start), (high, end) in pairs)

    def draw(self, rng: np.random.Generator, count: int) -> FloatColumn:
        """Draw independent values."""
        percents, values = zip(*self.points, strict=True)
        drawn: FloatColumn = np.interp(rng.random(count) * 100, percents, values)
        return drawn

    def draw_whole(self, rng: np.random.Generator, count: int) -> IntColumn:
        """Draw independent values, rounded, at least 1."""
        return np.maximum(np.rint(self.draw(rng, count)), 1).astype(np.int64)

    def scaled(self, mean: float) -> Quantiles:
        """Return the same shape with another mean."""
        return Quantiles(tuple((percent, value * mean / self.mean) for percent, value in self.points))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A kind of traffic that `generate` can draw."""

    name: str
    """What `kvsim trace generate` calls it."""
    about: str
    """One line on what it stands for."""
    source: str
    """Where its figures come from."""
    prompt: Quantiles
    """New prompt tokens of a request, on top of system prompt and earlier turns."""
    output: Quantiles
    """Generated tokens of a request."""
    first: Quantiles | None = None
    """New prompt tokens of a session's first request; None for the same as the others."""
    turns: Quantiles | None = None
    """Requests in a session; None for requests that stand alone."""
    think: Quantiles | None = None
    """Seconds from an answer to the session's next request."""
    max_tokens: int | None = None
    """Most new prompt and output tokens of a request together; longer draws are drawn again."""
    system_prompts: int = 0
    """Different system prompts; 0 for none, and no sharing between sessions."""
    system_tokens: int = 0
    """Tokens of each."""
    zipf: float = 0.0
    """Popularity of the k-th system prompt is proportional to k^-zipf."""
    block_tokens: int = 16
    """Tokens one content id stands for, where prompts share content."""
    moments: dict[str, float] = field(default_factory=dict)
    """What the draws come to, by name; see workloads.toml."""

    @property
    def system_length(self) -> int:
        """Tokens that the system prompt puts before every request."""
        return self.system_tokens if self.system_prompts else 0

    @property
    def shared_blocks(self) -> int:
        """Blocks a system prompt fills; its remainder shares one with what follows."""
        return self.system_length // self.block_tokens

    def summary(self) -> str:
        """Return the moments on one line."""
        return ", ".join(f"{name.replace('_', ' ')} {value:,g}" for name, value in self.moments.items())


@cache
def workloads() -> dict[str, Workload]:
    """Return the built-in workloads by name."""
    text = files("kvsim.traces").joinpath("workloads.toml").read_text(encoding="utf-8")
    return {name: _workload(name, table) for name, table in tomllib.loads(text).items()}


def workload(name: str, **overrides: float) -> Workload:
    """Return a built-in workload with some of its figures changed.

    A number for prompt, output, first, turns or think is its new mean, the shape being kept; the others
    (max_tokens, system_prompts, system_tokens, zipf, block_tokens) are set as they are.
    """
    known = workloads()
    if name not in known:
        raise InputError(f"unknown workload {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    found = known[name]
    # Any: a figure's type goes by its name, which _override sees to.
    changed: dict[str, Any] = {key: _override(found, key, value) for key, value in overrides.items()}
    return replace(found, **changed, moments={}) if changed else found


def _override(found: Workload, key: str, value: float) -> Quantiles | float:
    allowed = [f.name for f in fields(found) if f.name not in ("name", "about", "source", "moments")]
    if key not in allowed:
        raise InputError(
            f"workload has no figure {key!r}{nearest(key, allowed)}; known: {', '.join(allowed)}"
        )
    if not np.isfinite(value) or value < 0:
        raise InputError(f"workload {key} must be a number from 0 up, got {value}")
    present = getattr(found, key)
    if key in ("prompt", "output", "first", "turns", "think"):
        if not isinstance(present, Quantiles):
            raise InputError(f"workload {found.name} has no {key} to change")
        return present.scaled(value)
    if key == "zipf":
        return value
    if value != int(value) or (key == "block_tokens" and value < 1):
        raise InputError(f"workload {key} must be a whole number, got {value}")
    return int(value)


def _workload(name: str, table: dict[str, Any]) -> Workload:  # Any: as TOML gives it
    def entry(key: str, value: Any) -> Any:
        points = key in ("prompt", "output", "first", "turns", "think")
        return Quantiles(tuple((float(p), float(v)) for p, v in value)) if points else value

    return Workload(name=name, **{key: entry(key, value) for key, value in table.items()})
