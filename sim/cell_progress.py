"""One line about an experiment under way: how many cells are done, how long the rest takes, which run now."""

from __future__ import annotations

import sys
import time
from typing import Self

MOST_NAMED = 3
"""Cells under way that are named; more are counted."""
PLAIN_SECONDS = 30.0
"""Seconds between two lines where nobody watches a terminal."""


class Progress:
    """Keeps a line on stderr or in a notebook up to date; prints one now and then where there is neither."""

    def __init__(self, total: int, kept: int, *, shown: bool) -> None:
        """Expect `total` cells, of which `kept` are done already."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        self._console = Console(stderr=True)
        self._live = shown and (self._console.is_terminal or self._console.is_jupyter)
        self._plain = shown and not self._live
        self._running: dict[str, None] = {}
        self._failed = 0
        self._done, self._total, self._kept = kept, total, kept
        self._begun = self._said = time.monotonic()
        self._notes: set[str] = set()
        columns = (
            BarColumn(20),
            MofNCompleteColumn(),
            # The mean over the whole run: cells are few and long.
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
        )
        self._bar = Bar(
            *columns,
            console=self._console,
            transient=True,
            disable=not self._live,
            speed_estimate_period=1e9,
            expand=True,
        )
        self._task = self._bar.add_task("", total=total, completed=kept)

    def __enter__(self) -> Self:
        """Show the line."""
        self._bar.start()
        if self._plain:
            kept = f", {self._kept} of them finished before" if self._kept else ""
            print(f"{self._total} cells{kept}", file=sys.stderr)
        return self

    def __exit__(self, *exception: object) -> None:
        """Remove it."""
        self._bar.stop()

    def started(self, name: str) -> None:
        """Name a cell that was handed to a worker."""
        self._running[name] = None
        self._bar.update(self._task, description=self._text())

    def finished(self, name: str, failed: bool, notes: list[str]) -> None:
        """Count a cell; print what reading its trace changed, once for all cells that it goes for."""
        self._running.pop(name, None)
        self._failed += failed
        self._done += 1
        for note in notes:
            if note not in self._notes and (self._live or self._plain):
                self._bar.console.print(f"trace: {note}", highlight=False, markup=False)
            self._notes.add(note)
        self._bar.update(self._task, advance=1, description=self._text())
        self._say()

    def _say(self) -> None:
        now = time.monotonic()
        if not self._plain or now - self._said < PLAIN_SECONDS or self._done == self._total:
            return
        self._said = now
        left = (now - self._begun) / (self._done - self._kept) * (self._total - self._done)
        print(
            f"{self._done} of {self._total} cells, about {left:.0f} s left; {self._text()}", file=sys.stderr
        )

    def _text(self) -> str:
        names = list(self._running)
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        failed = f"{self._failed} failed; " if self._failed else ""
        return f"{failed}{' | '.join(names[:MOST_NAMED])}{more}"
