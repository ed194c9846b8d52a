"""A run as a series of scrapes of a vLLM server's /metrics, in OpenMetrics text that Prometheus can load."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from kvsim.errors import InputError
from kvsim.reports.server_metrics import ServerMetrics
from kvsim.reports.vllm_metrics import COUNTER, HISTOGRAM, Family, Readings, families
from kvsim.watchers import add_watch
from kvsim.whole_file import WholeFile

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from kvsim.engine import Simulation
    from kvsim.replica import Planned, StepRecord

INTERVAL = 5.0
"""Seconds between scrapes in the Prometheus set-up of vLLM's example dashboard."""


class PrometheusSeries:
    """Write vLLM's metrics as they stood every `interval` simulated seconds.

        with PrometheusSeries("run.om", "llama-3.1-8b") as series:
            simulate(workload, "paged", attach=series.attach)
            series.finish()

    `epoch` is the Unix time, in seconds, at which the trace begins. The format wants a metric's samples together,
    so figures (8 bytes each) are kept until the end. A name that ends in .gz is packed; a run that fails leaves
    no file.
    """

    def __init__(
        self, path: Path | str, model: str, *, interval: float = INTERVAL, epoch: float = 0.0
    ) -> None:
        """Open the file; raise InputError for what cannot work."""
        check_interval(interval, epoch)
        self._file = WholeFile(Path(path))
        self._labels = {"model_name": model, "engine": "0"}
        self._interval = interval
        self._epoch = epoch
        self._families: tuple[Family, ...] = ()
        self._figures: dict[str, array[float]] = {}
        self._scrapes = 0
        self._start = 0.0

    def attach(self, simulation: Simulation) -> None:
        """Watch a simulation that has not run yet."""
        self._families = families(simulation.limits.max_model_len)
        self._figures = {family.name: array("d") for family in self._families}
        self._metrics = ServerMetrics(simulation, Readings(self._families))
        self._simulation = simulation
        self._start = simulation.clock
        add_watch(simulation.replica, self._step, self._ended)

    def finish(self) -> None:
        """Write the file; its last scrape is the first after the end."""
        simulation = self._simulation
        self._scrape_before(simulation.clock)
        if not simulation.replica.batch.running:
            self._metrics.stand(0, len(simulation.replica.waiting), simulation.replica.ledger.slots(0, 0))
        self._scrape()
        for family in self._families:
            self._file.write(_text(self._metric(family)))
        self._file.write(b"# EOF\n")
        self._file.keep()

    def __enter__(self) -> PrometheusSeries:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing of a run that was not finished."""
        self._file.discard()

    def _step(self, record: StepRecord) -> None:
        self._scrape_before(record.planned.start)
        self._metrics.begin(record)
        self._scrape_before(record.planned.end)
        self._metrics.end(record)

    def _ended(self, planned: Planned) -> None:
        """Let the gauges fall when nothing runs: the next step may be far."""
        del planned
        replica = self._simulation.replica
        if not replica.under_way and not replica.batch.running:
            self._metrics.stand(0, len(replica.waiting), replica.ledger.slots(0, 0))

    def _scrape_before(self, time: float) -> None:
        """Take the scrapes that are due before a time at which something happens."""
        while self._start + self._scrapes * self._interval < time:
            self._scrape()

    def _scrape(self) -> None:
        self._scrapes += 1
        for family in self._families:
            self._figures[family.name].extend(self._metrics.readings.numbers(family))

    def _metric(self, family: Family) -> Metric:
        """Return a family with its samples, a series after the other, each in order of time."""
        from prometheus_client.metrics_core import Metric

        metric = Metric(family.name, family.text, family.kind)
        figures = self._figures[family.name]
        width = len(figures) // self._scrapes
        if family.kind == HISTOGRAM:
            self._add_histogram(metric, family, figures, width)
            return metric
        name = f"{family.name}_total" if family.kind == COUNTER else family.name
        for place, value in enumerate(family.values):
            labels = self._labels | ({family.label: value} if family.label else {})
            for scrape, time in enumerate(self._times()):
                metric.add_sample(name, labels, figures[scrape * width + place], time)
        return metric

    def _add_histogram(self, metric: Metric, family: Family, figures: array[float], width: int) -> None:
        from prometheus_client.utils import floatToGoString

        edges = [str(floatToGoString(edge)) for edge in (*family.edges, math.inf)]  # type: ignore[no-untyped-call]
        buckets = [self._labels | {"le": edge} for edge in edges]
        for scrape, time in enumerate(self._times()):
            *counts, total = figures[scrape * width : (scrape + 1) * width]
            for labels, count in zip(buckets, counts, strict=True):
                metric.add_sample(f"{family.name}_bucket", labels, count, time)
            metric.add_sample(f"{family.name}_sum", self._labels, total, time)
            metric.add_sample(f"{family.name}_count", self._labels, counts[-1], time)

    def _times(self) -> Iterator[float]:
        """Return the Unix times of the scrapes, in whole milliseconds as Prometheus keeps them."""
        for scrape in range(self._scrapes):
            yield round(self._epoch + self._start + scrape * self._interval, 3)


def check_interval(interval: float, epoch: float) -> None:
    """Raise InputError for times between scrapes, or of the first, that Prometheus could not keep."""
    if not 0.001 <= interval < math.inf:
        raise InputError(f"metrics interval must be at least 0.001 seconds, got {interval:g}")
    if not 0 <= epoch < math.inf:
        raise InputError(f"metrics epoch must be a Unix time in seconds from 0 up, got {epoch:g}")


class _Alone:
    """A registry of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> list[Metric]:
        return [self._metric]


def _text(metric: Metric) -> bytes:
    from prometheus_client.openmetrics.exposition import ALLOWUTF8, generate_latest

    # The default escaping takes the colon out of vLLM's names.
    text: bytes = generate_latest(_Alone(metric), ALLOWUTF8)  # type: ignore[no-untyped-call]
    return text.removesuffix(b"# EOF\n")
