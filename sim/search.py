"""Find the highest request rate, the smallest pool or the best setting under latency limits."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from kvsim.comparison import same_bytes
from kvsim.config import RunConfig
from kvsim.cost import CostModel
from kvsim.cost_error import stated_error
from kvsim.errors import InputError, nearest
from kvsim.run import check_settings, prepare_cost, prepare_policy, prepare_pool
from kvsim.search_best import BestSearch
from kvsim.search_edge import EdgeSearch
from kvsim.search_knobs import BEST, KNOBS, RATE, check_knob
from kvsim.search_options import SearchOptions
from kvsim.search_plan import Plan
from kvsim.search_point import Setup, Traffic
from kvsim.search_result import Search
from kvsim.search_store import Store, search_folder
from kvsim.search_walk import Progress, Tracker
from kvsim.slo import parse_objective, parse_slo

SMALL_TRAFFIC = 500
"""Requests up to which starting worker processes costs more than it saves."""


def search(
    traffic: Traffic,
    knob: str = RATE,
    policy: str = "paged",
    config: RunConfig | None = None,
    *,
    first_seed: int = 0,
    folder: Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    **changes: Any,  # Any: fields of SearchOptions and of RunConfig by name
) -> Search:
    """Search a knob for what traffic needs, and return the answer with the curve that led to it.

        from kvsim.search import search
        from kvsim.traces.redraw import GeneratedTraffic

        found = search(GeneratedTraffic("sharegpt", 2000), "rate", slo="ttft_p99=2s", gpu="h100-sxm")
        print(found.sentence)

    `knob` is rate (the highest wanted), one of which little is wanted (num-gpu-blocks, kv-cache-memory-bytes,
    gpu-memory-utilization), or one that has a best value by `objective` (max-num-seqs, max-num-batched-tokens,
    block-size). `changes` are fields of `SearchOptions` and `RunConfig`. `folder` remembers finished runs, so that
    the same call goes on after an interruption. The result does not depend on `jobs`.
    """
    if knob not in KNOBS:
        raise InputError(f"unknown knob {knob!r}{nearest(knob, KNOBS)}; known: {', '.join(KNOBS)}")
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {jobs}")
    names = {field.name for field in dataclasses.fields(SearchOptions)}
    options = SearchOptions(**{name: value for name, value in changes.items() if name in names})
    settings = {name: value for name, value in changes.items() if name not in names}
    setup = _setup(traffic, knob, policy, (config or RunConfig()).changed(**settings))
    plan = _plan(setup, knob, options, first_seed)
    store = Store(setup, None if folder is None else search_folder(folder), jobs or _jobs(traffic))
    kind = BestSearch if knob in BEST else EdgeSearch
    found = kind(plan, store, Tracker(store, progress)).run()
    found.remembered = store.remembered
    return found


def _setup(traffic: Traffic, knob: str, policy: str, config: RunConfig) -> Setup:
    # Blocks by decree would be more bytes the larger they are.
    setup = Setup(
        traffic=traffic, policy=policy, config=same_bytes(config) if knob == "block-size" else config
    )
    check_settings(policy, _roomiest(setup, knob))
    check_knob(knob, setup)
    return setup


def _plan(setup: Setup, knob: str, options: SearchOptions, first_seed: int) -> Plan:
    cost = _cost(setup, knob)
    aim = parse_objective(options.objective) if knob in BEST else None
    plan = Plan(
        knob=knob,
        setup=setup,
        bounds=parse_slo(options.slo, sustainable=knob == RATE or (knob in BEST and aim is None)),
        objective=aim,
        seeds=options.draws(first_seed, setup.traffic.varies),
        precision=options.precision,
        low=options.low,
        high=options.high,
        cost_label=cost.label,
        cost_error=stated_error(cost) if options.cost_error is None else options.cost_error,
        is_error_stated=options.cost_error is None,
    )
    plan.check()
    return plan


def _roomiest(setup: Setup, knob: str) -> RunConfig:
    """Return settings that work if any do: less memory than is there is for the search to try."""
    return (
        setup.config.changed(gpu_memory_utilization=1.0) if knob == "gpu-memory-utilization" else setup.config
    )


def _cost(setup: Setup, knob: str) -> CostModel:
    config = _roomiest(setup, knob)
    policy = prepare_policy(setup.policy, config)
    policy.reset(prepare_pool(None, policy, config))
    return prepare_cost(config, policy)


def _jobs(traffic: Traffic) -> int:
    return 1 if traffic.requests <= SMALL_TRAFFIC else os.cpu_count() or 1
