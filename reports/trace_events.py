"""Chrome trace events, one after the other into a file: spans, counters, instants and names of tracks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kvsim.whole_file import WholeFile

BATCH = 512
"""Events that are joined before they are written."""
PACKING = 5
"""gzip level; 9 takes three times as long and saves 3 %."""

Facts = Mapping[str, object]


class TraceEvents:
    """Write events of the Trace Event Format; times are seconds, and nanoseconds in the file.

    All edges are rounded to the nanosecond by themselves, so spans that meet in time meet in the file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, packed when its name ends in .gz; raise InputError where that is not possible."""
        self._file = WholeFile(path, PACKING)
        self._file.write(b'{"traceEvents":[\n')
        self._lines: list[str] = []
        self._counted: dict[tuple[int, str], Facts] = {}
        self._separator = ""

    def span(
        self, process: int, thread: int, name: str, start: float, end: float, facts: Facts | None = None
    ) -> None:
        """Add a span to a track; on one track spans must nest."""
        first, last = nanoseconds(start), nanoseconds(end)
        times = f'"ts":{_microseconds(first)},"dur":{_microseconds(last - first)}'
        self._add(f'{{"ph":"X","pid":{process},"tid":{thread},{times},{_rest(name, facts)}}}')

    def counters(self, process: int, name: str, at: float, values: Facts) -> None:
        """Set counters that are written together, if one of them has changed."""
        if self._counted.get((process, name)) == values:
            return
        self._counted[process, name] = values
        time = f'"ts":{_microseconds(nanoseconds(at))}'
        self._add(f'{{"ph":"C","pid":{process},{time},{_rest(name, values)}}}')

    def instant(self, process: int, thread: int, name: str, at: float, facts: Facts) -> None:
        """Add something that takes no time."""
        time = f'"ts":{_microseconds(nanoseconds(at))}'
        self._add(f'{{"ph":"i","s":"t","pid":{process},"tid":{thread},{time},{_rest(name, facts)}}}')

    def call_process(self, process: int, name: str) -> None:
        """Name a group of tracks; groups are shown by number."""
        for key, value in (("name", name), ("sort_index", process)):
            self._add(f'{{"ph":"M","pid":{process},{_rest(f"process_{key}", {key: value})}}}')

    def call_thread(self, process: int, thread: int, name: str) -> None:
        """Name a track; the tracks of a group are shown by number."""
        for key, value in (("name", name), ("sort_index", thread)):
            self._add(f'{{"ph":"M","pid":{process},"tid":{thread},{_rest(f"thread_{key}", {key: value})}}}')

    def close(self, about: Facts) -> None:
        """Write what the trace is about, and give the file its name."""
        self._flush()
        other = json.dumps(about, default=str)
        self._file.write(f'\n],"displayTimeUnit":"ms","otherData":{other}}}\n'.encode())
        self._file.keep()

    def discard(self) -> None:
        """Remove what was written, unless it was closed."""
        self._file.discard()

    def _add(self, line: str) -> None:
        self._lines.append(line)
        if len(self._lines) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            self._file.write((self._separator + ",\n".join(self._lines)).encode())
            self._separator = ",\n"
            self._lines.clear()


def nanoseconds(seconds: float) -> int:
    """Return the nearest whole nanosecond."""
    return round(seconds * 1e9)


def _microseconds(whole: int) -> str:
    """Write nanoseconds in the format's unit, exactly."""
    return f"{whole // 1000}.{whole % 1000:03d}"


def _rest(name: str, facts: Facts | None) -> str:
    arguments = f',"args":{json.dumps(facts, separators=(",", ":"))}' if facts else ""
    return f'"name":{json.dumps(name)}{arguments}'
