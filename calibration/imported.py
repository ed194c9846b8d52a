"""What an importer hands over: points of published tables, and their origin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kvsim.calibration.held_out import with_held_out
from kvsim.calibration.points import Point
from kvsim.errors import InputError

STATEMENT = "imported, not measured by this project"

GAPS: Mapping[str, object] = {
    "captured_gap": 1.3e-6,
    "eager_gap": 2.1e-6,
    "source": "gaps between kernels: measured on an H100 by Hazy Research (Look Ma, No Bubbles!, 2025), "
    "assumed for this GPU",
}
"""For tables that add up how long kernels ran, as a profiler tells it: in that nothing lies between two of them."""

NO_ALLREDUCE = "the tables have no all-reduce: steps of several GPUs come out too short"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Points of one model on one GPU of a tensor-parallel group."""

    points: tuple[Point, ...]
    device: Mapping[str, object]
    """What the profile says of the GPU."""
    source: Mapping[str, object]
    """Origin, licence, tables read, and that the project did not measure them."""
    host: Mapping[str, object] = field(default_factory=dict)
    """As `Profile.host`; empty where there is nothing to say."""
    warnings: tuple[str, ...] = ()
    """What is odd about the points, a sentence each."""

    @classmethod
    def of(
        cls,
        points: Sequence[Point],
        *,
        gpu: str,
        seed: int,
        source: Mapping[str, object],
        host: Mapping[str, object] | None = None,
        warnings: Sequence[str] = (),
    ) -> Imported:
        """Draw the held-out points, and complete the source with what every import says."""
        check_ids(points)
        return cls(
            points=with_held_out(points, seed),
            device={"type": "cuda", "name": gpu, "gpu": gpu},
            host=host or {},
            source={"statement": STATEMENT, **source, "seed": seed, "flags": count_flags(points)},
            warnings=tuple(warnings),
        )


def with_gaps(host: Mapping[str, object]) -> Mapping[str, object]:
    """Return host times with the gaps between kernels beside them."""
    sources = [str(each["source"]) for each in (host, GAPS) if each.get("source")]
    return {**host, **GAPS, "source": "; ".join(sources)}


def count_flags(points: Sequence[Point]) -> dict[str, int]:
    """Count the points by flag, in the order of the alphabet."""
    counted = Counter(flag for point in points for flag in point.flags)
    return {flag: counted[flag] for flag in sorted(counted)}


def check_ids(points: Sequence[Point]) -> None:
    """Raise InputError when two points have one id: the tables have two rows of one call."""
    twice = [name for name, count in Counter(point.id for point in points).items() if count > 1]
    if twice:
        raise InputError(f"the tables have two rows of {twice[0]}")
