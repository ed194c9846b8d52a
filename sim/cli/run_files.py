"""What `kvsim run` records beside a run's summary: memory map, step log, timeline, metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from kvsim.config import RunConfig
    from kvsim.engine import Simulation
    from kvsim.reports.perfetto import PerfettoTrace
    from kvsim.reports.prometheus import PrometheusSeries
    from kvsim.result import Result
    from kvsim.step_log import StepLog


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """Which of them are asked for."""

    memory_map: Annotated[bool, Parameter(negative=())] = False
    """Record what lies where in the pool over time, as memory_map.parquet in --output; a second or so."""
    step_log: Path | None = None
    """File for one JSON row a step; .gz is compressed."""
    trace_out: Path | None = None
    """File for a timeline to open in ui.perfetto.dev: steps, requests, counters; .gz is compressed."""
    metrics_out: Path | None = None
    """File for vLLM's Prometheus metrics over time, as OpenMetrics text; .gz is compressed."""
    metrics_interval: float = 5.0
    """Simulated seconds between two points in --metrics-out."""
    metrics_epoch: float = 0.0
    """Unix time, in seconds, that second 0 of the trace has in --metrics-out."""

    def check(self, output: Path | None) -> None:
        """Raise InputError for what could only fail later, with the run folder asked for."""
        from kvsim.errors import InputError
        from kvsim.reports.prometheus import check_interval
        from kvsim.result import new_folder

        if output is not None:
            new_folder(output)
        elif self.memory_map:
            raise InputError("--memory-map needs --output, a new folder to write it to")
        check_interval(self.metrics_interval, self.metrics_epoch)
        paths = [path.resolve() for path in (self.step_log, self.trace_out, self.metrics_out) if path]
        if len(set(paths)) < len(paths):
            raise InputError("--step-log, --trace-out and --metrics-out must be different files")

    @contextmanager
    def opened(self, config: RunConfig) -> Iterator[Watchers]:
        """Open the files, and leave none of a run that fails."""
        from kvsim.reports.perfetto import PerfettoTrace
        from kvsim.reports.prometheus import PrometheusSeries
        from kvsim.step_log import StepLog

        interval, epoch = self.metrics_interval, self.metrics_epoch
        with ExitStack() as stack:
            log = timeline = series = None
            if self.step_log is not None:
                log = stack.enter_context(StepLog(self.step_log, config.async_scheduling))
            if self.trace_out is not None:
                timeline = stack.enter_context(PerfettoTrace(self.trace_out))
            if self.metrics_out is not None:
                series = PrometheusSeries(self.metrics_out, config.model, interval=interval, epoch=epoch)
                stack.enter_context(series)
            yield Watchers(log, timeline, series)


@dataclass(frozen=True)
class Watchers:
    """Those that are open."""

    log: StepLog | None
    timeline: PerfettoTrace | None
    series: PrometheusSeries | None

    def attach(self, simulation: Simulation) -> None:
        """Let all of them watch a simulation."""
        from kvsim.watchers import add_watch

        if self.log is not None:
            add_watch(simulation.replica, self.log)
        if self.timeline is not None:
            self.timeline.attach(simulation)
        if self.series is not None:
            self.series.attach(simulation)

    def finish(self, result: Result) -> None:
        """Write what is known only at the end."""
        if self.timeline is not None:
            self.timeline.finish(result)
        if self.series is not None:
            self.series.finish()
