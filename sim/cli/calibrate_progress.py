"""How far a calibration is: one line that changes on a terminal, a line now and then elsewhere; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.calibration.session import Progress

PLAIN_EVERY = 15.0
"""Seconds between lines of progress where there is no terminal."""


@contextmanager
def shown_progress() -> Iterator[Callable[[Progress], None]]:
    """Show one line that changes on a terminal, else print one now and then; on stderr."""
    if not sys.stderr.isatty():
        yield _plain()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[eta]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("calibrating", total=None, eta="")

        def show(at: Progress) -> None:
            eta = f"{at.eta_seconds:.0f} s left"
            bar.update(task, description=at.what, completed=at.done, total=at.total, eta=eta)

        yield show


def _plain() -> Callable[[Progress], None]:
    last = time.monotonic()

    def show(at: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_EVERY:
            last = time.monotonic()
            print(f"kvsim: {at.what}: {at.done} of {at.total}, {at.eta_seconds:.0f} s left", file=sys.stderr)

    return show
