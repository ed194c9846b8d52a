"""How far a search is: one line that changes on a terminal, a line now and then elsewhere; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kvsim.search_walk import Progress

PLAIN_EVERY = 15.0
"""Seconds between lines of progress where there is no terminal."""


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Give a function that shows runs done, runs expected (a guess that gets better) and the time that is left."""
    begin = time.monotonic()

    def left(done: int, total: int) -> str:
        return f"about {(time.monotonic() - begin) / max(done, 1) * (total - done):,.0f} s left"

    if not sys.stderr.isatty():
        last = begin

        def tell(done: int, total: int, what: str) -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_EVERY:
                last = time.monotonic()
                print(f"kvsim: {what}: {done} of about {total} runs, {left(done, total)}", file=sys.stderr)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("searching", total=None, left="")

        def show(done: int, total: int, what: str) -> None:
            bar.update(task, description=what, completed=done, total=total, left=left(done, total))

        yield show
