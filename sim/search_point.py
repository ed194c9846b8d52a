"""One run of a search: what it depends on, what it measured, and the name under which it is remembered."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from kvsim.backlog import mean_stay, measure_backlog
from kvsim.config import RunConfig
from kvsim.cost_error import prepare_scaled
from kvsim.errors import InputError
from kvsim.registry import make_policy
from kvsim.request import Workload
from kvsim.result import environment
from kvsim.run import model_len
from kvsim.summary import Columns, summarise

PACKAGES = ("kvsim", "kvsim.policies", "kvsim.traces", "kvsim.calibration")
"""Whose files a run's numbers come from."""


class Traffic(Protocol):
    """Requests that can be drawn again by seed and rate; `kvsim.traces.redraw` has a recorded and a generated one."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def requests(self) -> int:
        """Requests in a draw, about."""

    @property
    def varies(self) -> bool:
        """Whether seeds differ."""

    @property
    def own_rate(self) -> float | None:
        """Starts a second where no rate is asked for; None where there is no such thing."""

    @property
    def about(self) -> str:
        """How a seed draws, in words."""

    def identity(self) -> dict[str, object]:
        """Return what a draw depends on besides seed and rate, as JSON."""

    def draw(self, seed: int, rate: float | None = None) -> Workload:
        """Return the requests of a seed at a rate; the same arguments give the same."""


class Point(NamedTuple):
    """One run: which draw, at which rate, with which settings changed, at which price."""

    seed: int
    rate: float | None = None
    """Starts a second; None for the traffic's own."""
    changes: tuple[tuple[str, int | float], ...] = ()
    """Fields of the configuration that differ from the setup's."""
    cost_factor: float = 1.0
    """What every step's seconds are multiplied with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the runs of a search have in common."""

    traffic: Traffic
    policy: str
    """Name with parameters, module:Class or file.py:Class."""
    config: RunConfig = field(default_factory=RunConfig)

    def at(self, point: Point) -> RunConfig:
        """Return a point's configuration."""
        return self.config.changed(**dict(point.changes))

    def key(self, point: Point) -> str:
        """Return the hash of everything that a point's numbers depend on."""
        settings = self.at(point)
        files = {name: _file_hash(getattr(settings, name)) for name in ("model", "gpu", "cost")}
        record = {
            "point": [point.seed, point.rate, point.cost_factor],
            "traffic": self.traffic.identity(),
            "policy": [self.policy, _source_hash(self.policy)],
            "settings": asdict(settings),
            "files": files,
            "code": code_hash(),
        }
        return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()[:32]


class Outcome(NamedTuple):
    """What a run came to."""

    figures: Mapping[str, float | int | None]
    """Its summary, `queue_growth`, `backlog_growth`, `failed_share`, `good_share`, `starts`, `arrival_span` and
    `mean_stay`; empty where the settings cannot work."""
    reason: str = ""
    """Why a request was rejected that other settings might serve, or why there was no run."""


def measure(setup: Setup, point: Point) -> Outcome:
    """Run one point; settings that cannot work are an outcome too, with their reason."""
    config = setup.at(point)
    workload = setup.traffic.draw(point.seed, point.rate)
    try:
        simulation = prepare_scaled(workload, setup.policy, config, point.cost_factor)
    except InputError as error:
        return Outcome({}, str(error))
    simulation.run()
    columns = Columns.of(simulation)
    figures = summarise(simulation, columns, config.goodput)
    return Outcome(
        figures | _more(workload, columns, figures, model_len(config)), _first_reason(columns, config)
    )


@cache
def code_hash() -> str:
    """Return the hash of version, Python, numpy and the source of every package that a run uses."""
    versions = {name: text for name, text in environment().items() if name != "cpus"}
    digest = hashlib.sha256(json.dumps(versions, sort_keys=True).encode())
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            # Not the command line and what only looks at results.
            sources = (
                *Path(folder).glob("*.py"),
                *Path(folder).glob("*.toml"),
                *Path(folder).glob("data/*/*.json"),
            )
            for path in sorted(sources):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _more(
    workload: Workload, columns: Columns, figures: Mapping[str, float | int | None], longest: int
) -> dict[str, float | int | None]:
    """Return the figures that a summary does not have."""
    opening = np.ones(len(workload), dtype=bool) if workload.parent is None else workload.parent < 0
    times = workload.arrival[opening]
    start, end = (float(times[0]), float(times.max())) if len(times) else (0.0, 0.0)
    entered = np.isfinite(columns.arrival)
    entered[list(columns.reasons)] = False
    hopeless = int(((columns.prompt == 0) | (columns.prompt >= longest)).sum())
    possible = len(workload) - hopeless
    times_of = columns.arrival[entered], columns.first_scheduled[entered], columns.finish[entered]
    stay = mean_stay(columns.arrival, columns.finish, workload.parent)
    backlog = measure_backlog(*times_of, start, end, stay)
    more: dict[str, float | int | None] = {
        "queue_growth": None if backlog is None else backlog.queue_growth,
        "backlog_growth": None if backlog is None else backlog.growth,
        "failed_share": max(_number(figures, "failed") - hopeless, 0) / possible if possible else 1.0,
        "starts": len(times),
        "arrival_span": end - start,
        "mean_stay": stay,
    }
    if "request_goodput" in figures:
        good = _number(figures, "request_goodput") * _number(figures, "duration")
        more["good_share"] = round(good) / possible if possible else 0.0
    return more


def _number(figures: Mapping[str, float | int | None], name: str) -> float:
    return float(figures[name] or 0)


def _first_reason(columns: Columns, config: RunConfig) -> str:
    """Return the first reason that other settings might remove: a prompt beyond max_model_len is never served."""
    longest = model_len(config)
    rows = (row for row in sorted(columns.reasons) if 0 < columns.prompt[row] < longest)
    return next((f"row {row}: {columns.reasons[row]}" for row in rows), "")


@cache
def _source_hash(policy: str) -> str:
    path = inspect.getsourcefile(type(make_policy(policy)))
    return _file_hash(path or "")


def _file_hash(name: str) -> str:
    """Return the hash of the file that a setting names; empty where it names none."""
    path = Path(name)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if name and path.is_file() else ""
    except OSError:
        return ""
