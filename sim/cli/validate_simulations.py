"""Measures that simulate: batch sizes, memory split, throughput and latency, for the rows of `published.toml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.request import Workload
    from kvsim.result import Result
    from kvsim.validate_memory import Figures

PARTS = ("live", "reserved", "internal", "external", "reusable", "free")


def replay(
    *,
    workload: str = "",
    trace: Path | None = None,
    requests: int = 0,
    rate: float = 1.0,
    policy: str = "paged",
    capacity: bool = False,
    lengths: Mapping[str, float] | None = None,
    last_tokens: int = 0,
    **settings: Any,  # Any: RunConfig fields by name
) -> Figures:
    """Replay a trace, or a generated workload (`lengths` are other means of it), and return its summary's numbers.

    Of a trace the first `requests` count, if any are named, each with the `last_tokens` of its prompt.
    """
    work = _work(workload, trace, requests, rate, lengths or {}, last_tokens)
    result = _run(work, policy, capacity, settings)
    return {name: value for name, value in result.summary.items() if value is not None}


def replay_ratio(*, over: Mapping[str, Any], **run: Any) -> Figures:  # Any: parameters of `replay`
    """Return every number of a run's summary divided by that of the same run with `over` changed."""
    mine, other = replay(**run), replay(**{**run, **over})
    return {
        name: float(value) / float(other[name])  # type: ignore[arg-type]  # a summary holds numbers
        for name, value in mine.items()
        if other.get(name)
    }


@cache
def saturated(
    *, workload: str, requests: int, rate: float, policy: str, **settings: Any
) -> Figures:  # Any: RunConfig fields
    """Return means over the time in which requests wait: `batch`, parts of the pool in %, tokens a request.

    `batches` are all batch sizes seen, `rest` is what is neither live nor reserved; `batch_overall` and `token_ms`,
    what a token of a running request takes, are over the whole run.
    """
    import numpy as np

    steps: list[Any] = []  # Any: StepRecord, of which three fields are read
    result = _run(_work(workload, None, requests, rate, {}), policy, False, settings, steps)
    late = [step for step in steps if step.waiting]
    figures: Figures = {
        "batch_overall": result.summary["running_mean"],
        "token_ms": 1e3 * result.summary["running_mean"] / result.summary["output_throughput"],
    }
    if not late:
        return figures
    seconds = np.array([step.planned.end - step.planned.start for step in late])
    shares = seconds @ np.array([step.slots for step in late]) / seconds.sum()
    running = np.array([step.running for step in late])
    batch, capacity = float(seconds @ running / seconds.sum()), result.config["pool"]["slots"]
    percent: dict[str, float] = dict(zip(PARTS, (100 * shares / capacity).tolist(), strict=True))
    return {
        **figures,
        **percent,
        "batch": batch,
        "batches": tuple(sorted({int(each) for each in running})),
        "external_slots": tuple(sorted({int(step.slots.external) for step in late})),
        "rest": percent["internal"] + percent["external"] + percent["free"],
        "live_each": float(shares[0]) / batch,
        "reserved_each": float(shares[1]) / batch,
    }


def ranking(
    *, policies: Mapping[str, str], figure: str = "batch", **run: Any
) -> Figures:  # Any: parameters of `saturated`
    """Return the names of policies in the `order` of a figure of `saturated`, smallest first."""
    found: list[tuple[Any, str]] = []  # Any: a number
    for name, policy in policies.items():
        figures = saturated(policy=policy, **run)
        found.append((figures.get(figure, figures["batch_overall"]), name))
    return {"order": tuple(name for _, name in sorted(found))}


def fixed_service(*, rate: float, service: float, degree: int = 1, requests: int = 20_000) -> Figures:
    """Return the mean `ttft` of a Poisson queue in front of one server of fixed service time, ± 3 standard errors."""
    import numpy as np

    from kvsim.traces import Trace
    from kvsim.traces.arrivals import arrivals
    from kvsim.validate_table import Interval

    times = arrivals("poisson", requests, rate, np.random.default_rng(43))
    ones = np.ones(requests, np.int64)
    work = Trace(name="single tokens", arrival=times, prompt_tokens=ones, output_tokens=ones)
    settings = {"cost": f"linear:{service / degree},0,0", "max_num_seqs": 1}
    waits = _run(work, "paged", False, settings).requests["ttft_ms"].to_numpy() / 1e3
    # Waits that follow each other are alike, means of long batches hardly are.
    batches = waits[: requests // 100 * 100].reshape(100, -1).mean(axis=1)
    error, mean = float(batches.std(ddof=1)) / 10, float(waits.mean())
    return {"ttft": Interval(mean - 3 * error, mean, mean + 3 * error)}


def recorded_logs(*, manifest: Path, cases: Sequence[str] = ()) -> Figures:
    """Return how many `cases`, `steps` and `requests` of recorded runs there are, and how many cases are `equal`."""
    from kvsim.cli.verify import replay as replay_case
    from kvsim.manifest import chosen, read_manifest

    verdicts = [replay_case(case) for case in chosen(read_manifest(manifest), list(cases))]
    return {
        "cases": len(verdicts),
        "equal": sum(verdict.equal for verdict in verdicts),
        "steps": sum(verdict.steps for verdict in verdicts),
        "requests": sum(verdict.requests for verdict in verdicts),
    }


def _work(
    workload: str,
    trace: Path | None,
    requests: int,
    rate: float,
    lengths: Mapping[str, Any],  # Any: numbers
    last_tokens: int = 0,
) -> Workload:
    from dataclasses import replace

    from kvsim.traces.generate import generate
    from kvsim.traces.read import read_trace
    from kvsim.traces.transform import transform

    if trace is not None:
        work = transform(read_trace(trace), head=requests or None)
        longest = last_tokens or int(work.prompt_tokens.max(initial=0))
        return replace(work, prompt_tokens=work.prompt_tokens.clip(max=longest))
    return generate(workload, requests, rate=rate, seed=0, **lengths)


def _run(
    work: Workload,
    policy: str,
    capacity: bool,
    settings: Mapping[str, Any],  # Any: RunConfig fields by name
    steps: list[Any] | None = None,
) -> Result:
    from kvsim.run import simulate

    watch = None if steps is None else steps.append
    return simulate(work, policy, watch=watch, measure_capacity=capacity, **settings)
