"""Several watchers on one replica: each sees every step, in the order in which they were added."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kvsim.replica import Planned, Replica, StepRecord

Seen = TypeVar("Seen")


def add_watch(
    replica: Replica,
    step: Callable[[StepRecord], None] | None = None,
    ended: Callable[[Planned], None] | None = None,
) -> None:
    """Call `step` with every step that is scheduled and `ended` once it has, after whoever watches already."""
    if step is not None:
        replica.watch = _both(replica.watch, step)
    if ended is not None:
        replica.watch_end = _both(replica.watch_end, ended)


def _both(first: Callable[[Seen], None] | None, second: Callable[[Seen], None]) -> Callable[[Seen], None]:
    if first is None:
        return second
    before = first

    def call(seen: Seen) -> None:
        before(seen)
        second(seen)

    return call
