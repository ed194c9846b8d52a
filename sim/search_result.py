"""What a search found: the answer, how sure it is, and every run that led there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import kvsim
from kvsim.search_estimate import Estimate
from kvsim.search_knobs import RATE, SMALLEST
from kvsim.search_plan import Plan
from kvsim.search_point import Outcome, Point
from kvsim.search_store import write_whole
from kvsim.slo import words

if TYPE_CHECKING:
    import pandas as pd


class Edge(NamedTuple):
    """Where one seed stops keeping to the limits."""

    seed: int
    value: float | None
    """The hardest value that does; None where none does."""
    is_open: bool
    """Whether that is the end of what was tried."""
    point: Point | None
    """Its run."""


@dataclass(frozen=True, slots=True)
class Score:
    """How good one value of a setting is."""

    value: int
    values: tuple[float | None, ...]
    """The objective by seed; None where the limits are not kept."""
    points: tuple[Point, ...]
    """The runs behind them."""

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None unless every seed keeps to the limits."""
        known = [value for value in self.values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(self.values) else None


class Band(NamedTuple):
    """The answer where every step takes (1 + error) or (1 − error) times as long."""

    error: float
    slow: Estimate | None
    """At 1 + error; None where nothing keeps to the limits then."""
    fast: Estimate | None
    points: tuple[Point, ...]
    best: tuple[int | None, ...] = ()
    """Best of the value and its neighbours then, slow and fast; empty for other knobs."""


class Search:
    """The answer to a search: `sentence`, `value`, the `curve` it walked, all `runs`."""

    def __init__(
        self,
        plan: Plan,
        outcomes: Mapping[Point, Outcome],
        points: Sequence[Point],
        *,
        edges: Sequence[Edge] = (),
        scores: Mapping[int, Score] | None = None,
        best: int | None = None,
        own: int | None = None,
        band: Band | None = None,
    ) -> None:
        """Hold what was found; frames and sentences are made when first asked for."""
        self.plan, self.outcomes, self.points = plan, outcomes, tuple(dict.fromkeys(points))
        self.edges, self.scores = tuple(edges), dict(scores or {})
        self.best, self.own, self.band = best, own, band
        self.remembered = 0
        """Runs that were in the folder already."""

    @property
    def found(self) -> bool:
        """Whether some value keeps to the limits in every seed."""
        return self.value is not None

    @property
    def estimate(self) -> Estimate | None:
        """Mean over the seeds: of the edge, or of the best value's score."""
        values = [edge.value for edge in self.edges] or list(
            self.scores[self.best].values if self.best else ()
        )
        known = [value for value in values if value is not None]
        return Estimate.of(known, 0.0) if known and len(known) == len(values) else None

    @property
    def value(self) -> float | None:
        """The answer: the mean highest rate, the smallest pool that is enough in every seed, or the best value."""
        estimate = self.estimate
        if estimate is None:
            return None
        if self.edges:
            return max(estimate.values) if self.plan.knob in SMALLEST else estimate.mean
        return self.best

    @cached_property
    def sentence(self) -> str:
        """The answer in one sentence, with its confidence and the cost model's error."""
        from kvsim.search_words import sentence

        return sentence(self)

    @cached_property
    def notes(self) -> list[str]:
        """What the reader of the answer should know besides."""
        from kvsim.search_words import notes

        return notes(self)

    @cached_property
    def curve(self) -> pd.DataFrame:
        """One row a value of the knob, ascending; columns in `reports/recipes.md`."""
        from kvsim.search_frames import curve_frame

        return curve_frame(self)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run, in the order in which they were needed."""
        from kvsim.search_frames import runs_frame

        return runs_frame(self)

    def record(self) -> dict[str, object]:
        """Return the answer, and what it rests on, as JSON has it."""
        plan, setup = self.plan, self.plan.setup
        return {
            "format": "kvsim-search",
            "sentence": self.sentence,
            "found": self.found,
            "knob": plan.knob,
            "unit": plan.unit,
            "value": self.value,
            "estimate": _estimate(self.estimate),
            "by_seed": [
                {"seed": edge.seed, "value": edge.value, "is_open": edge.is_open} for edge in self.edges
            ],
            "objective": None if not self.scores else plan.objective.name if plan.objective else RATE,
            "cost": plan.cost_label,
            "cost_error": plan.cost_error,
            "band": self._band(),
            "limits": words(plan.bounds),
            "seeds": list(plan.seeds),
            "notes": self.notes,
            "policy": setup.policy,
            "traffic": {"name": setup.traffic.name, "drawn": setup.traffic.about, **setup.traffic.identity()},
            "settings": asdict(setup.config),
            "version": kvsim.__version__,
        }

    def save(self, folder: Path, finish: Callable[[Path], object] | None = None) -> Path:
        """Write curve.csv, curve.parquet, runs.parquet and search.json; `finish` may add files."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in (("curve", self.curve), ("runs", self.runs)):
            buffer = BytesIO()
            frame.to_parquet(buffer, index=False)
            write_whole(folder / f"{name}.parquet", buffer.getvalue())
        write_whole(folder / "curve.csv", self.curve.to_csv(index=False))
        write_whole(folder / "search.json", json.dumps(self.record(), indent=2, default=str) + "\n")
        if finish is not None:
            finish(folder)
        return folder

    def value_of(self, point: Point) -> float:
        """Return the knob's value at a run."""
        if self.plan.knob == RATE:
            assert point.rate is not None
            return point.rate
        return point.changes[-1][1]

    def __repr__(self) -> str:
        """Say the answer."""
        return f"<Search: {self.sentence}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self.sentence)}</p>{self.curve.to_html(index=False)}"

    def _band(self) -> dict[str, object] | None:
        if self.band is None:
            return None
        ends = {"slow": _estimate(self.band.slow), "fast": _estimate(self.band.fast)}
        return {"error": self.band.error, **ends, "best": list(self.band.best)}


def _estimate(estimate: Estimate | None) -> dict[str, object] | None:
    return None if estimate is None else estimate._asdict()
