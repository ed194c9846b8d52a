"""Several policies on the same work: one tidy frame each for summaries, requests and timelines."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.cell_backends import Workers
from kvsim.config import RunConfig
from kvsim.errors import InputError
from kvsim.experiment_grid import policy_name
from kvsim.result import Result, whole_folder
from kvsim.run import check_settings, model_of, policies_named, simulate

if TYPE_CHECKING:
    import pandas as pd

    from kvsim.request import Workload

DEFAULT_POLICIES = ("contiguous", "paged", "prefix", "sliding-window")
SMALL_TRACE = 2000
"""Requests up to which starting worker processes costs more than it saves."""


class Comparison:
    """Results of several policies by name, in the order in which they were asked for."""

    def __init__(self, results: dict[str, Result]) -> None:
        """Take finished results."""
        self.results = results

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a policy; columns are the summary's keys, NaN where a run has no such number."""
        import pandas as pd

        numbers = pd.DataFrame([result.summary for result in self.results.values()])
        # None, where nothing ran, would make a column of objects.
        empty = numbers.columns[numbers.isna().any()]
        numbers[empty] = numbers[empty].astype(float)
        numbers.insert(0, "policy", list(self.results))
        return numbers

    @cached_property
    def requests(self) -> pd.DataFrame:
        """Every policy's requests, told apart by `policy`."""
        return self._stacked("requests")

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """Every policy's timeline, told apart by `policy`."""
        return self._stacked("timeline")

    @cached_property
    def itl(self) -> pd.DataFrame:
        """Every policy's times between tokens, told apart by `policy`."""
        return self._stacked("itl")

    @cached_property
    def memory_map(self) -> pd.DataFrame:
        """Every recorded memory map, told apart by `policy`; empty when there is none."""
        return self._stacked("memory_map")

    def save(self, folder: Path | str, finish: Callable[[Path], object] | None = None) -> Path:
        """Write compare.csv and a run folder a policy, all or nothing; `finish` may add files."""
        with whole_folder(Path(folder)) as working:
            for name, result in self.results.items():
                result.save(working / folder_name(name))
            self.summary.to_csv(working / "compare.csv", index=False)
            if finish is not None:
                finish(working)
        return Path(folder)

    def _stacked(self, name: str) -> pd.DataFrame:
        import pandas as pd

        frames: list[pd.DataFrame] = [
            frame.assign(policy=policy)
            for policy, result in self.results.items()
            if (frame := getattr(result, name)) is not None
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"policy": []})

    def _repr_html_(self) -> str:
        """Show the summaries as a table in a notebook."""
        # By name, since the core knows none of the packages that build on it.
        html: str = importlib.import_module("kvsim.reports.notebook").comparison_html(self)
        return html

    def __repr__(self) -> str:
        """Name the policies."""
        return f"<Comparison of {', '.join(self.results)}>"


def compare(
    workload: Workload,
    policies: Sequence[str] = DEFAULT_POLICIES,
    config: RunConfig | None = None,
    *,
    jobs: int | None = None,
    progress: Callable[[str, Result], None] | None = None,
    measure_capacity: bool = True,
    memory_map: bool | None = None,
    **changes: Any,  # Any: RunConfig fields by name
) -> Comparison:
    """Run every policy on the same trace, settings and bytes of KV memory.

    `jobs` worker processes run them side by side (as many as there are CPUs; one for traces of up to 2,000
    requests); the results do not depend on it. `memory_map` says whether memory maps are recorded: for traces of
    up to 2,000 requests unless given. `progress` is called as each policy is done. See `simulate` for the rest.
    """
    names = policies_named(policies)
    settings = same_bytes((config or RunConfig()).changed(**changes))
    workers = 1 if jobs is None and len(workload) <= SMALL_TRACE else worker_count(names, jobs)
    draw = len(workload) <= SMALL_TRACE if memory_map is None else memory_map
    found: dict[str, Result] = {}
    for name, result in _outcomes(workload, names, settings, workers, measure_capacity, draw):
        found[name] = result
        if progress is not None:
            progress(name, result)
    return Comparison({name: found[name] for name in names})


def worker_count(policies: Sequence[str], jobs: int | None) -> int:
    """Return how many processes share the policies: as many as asked for, or as there are CPUs."""
    return min(jobs or os.cpu_count() or 1, len(policies))


def starts_workers_anew(policies: Sequence[str]) -> bool:
    """Tell whether a policy is a user's: a process that has loaded one does not see later edits."""
    return any(":" in policy_name(policy) for policy in policies)


def check_comparison(policies: Sequence[str], config: RunConfig) -> None:
    """Raise InputError for policies and settings that cannot work, whatever the trace."""
    for name in policies_named(policies):
        check_settings(name, same_bytes(config))


def _outcomes(
    workload: Workload, names: list[str], config: RunConfig, workers: int, measure: bool, draw: bool
) -> Iterator[tuple[str, Result]]:
    call = partial(_outcome, workload, config, measure, draw)
    if workers == 1:
        yield from map(call, names)
        return
    with Workers(jobs=workers, fresh=starts_workers_anew(names)) as pool:
        try:
            yield from pool.map(call, names)
        except pool.deaths:
            raise InputError(
                "a worker process died (killed, or out of memory) before its policy was done; with --jobs 1 policies "
                "run one after the other"
            ) from None


def _outcome(
    workload: Workload, config: RunConfig, measure: bool, draw: bool, name: str
) -> tuple[str, Result]:
    return name, simulate(workload, name, config, measure_capacity=measure, memory_map=draw)


def same_bytes(config: RunConfig) -> RunConfig:
    """Turn a number of blocks into bytes: policies may differ in block size, and in what a block holds."""
    if config.num_gpu_blocks_override is None:
        return config
    token_bytes = model_of(config).kv_bytes_per_token(config.kv_cache_dtype, config.tensor_parallel_size)
    size = config.num_gpu_blocks_override * config.block_size * token_bytes
    return config.changed(num_gpu_blocks_override=None, kv_cache_memory_bytes=size)


def folder_name(policy: str) -> str:
    """Return the name of a policy's run folder in a comparison's."""
    return "".join(letter if letter.isalnum() or letter in "-_=.," else "_" for letter in policy)
