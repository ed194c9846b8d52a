"""kv-cache-tester: coding-agent sessions as JSON, replayed closed loop; one file or a folder of them."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kvsim.errors import InputError
from kvsim.traces.check_ids import check_chain
from kvsim.traces.origin import Coverage, Origin
from kvsim.traces.reader import Format, Found, Options, has
from kvsim.traces.rows import Row, floats, integers, ints, number, whole
from kvsim.traces.source import Head, Source
from kvsim.traces.trace import Trace

BLOCK_TOKENS = 64
FIELDS = {"prompt_tokens": "in", "output_tokens": "out", "think": "think_time", "block_ids": "hash_ids"}


def read(source: Source, options: Options) -> Found:
    """Read sessions: each request is sent its `think_time` after the answer to the one before it.

    Requests of sub-agents stand where their agent was called, however deep. Ids are private to a file
    and numbered on from file to file. A request without prompt tokens is dropped; one without output
    tokens was cut off, and counts with the one token that a prefill gives.
    """
    del options
    sessions = Sessions(source)
    for file in _files(source):
        sessions.read(file)
    return Found(trace=sessions.trace(), origin=sessions.origin(), has_arrivals=False)


class Sessions:
    """Sessions collected so far, one row a request."""

    def __init__(self, source: Source) -> None:
        """Start empty."""
        self.source = source
        self.prompt, self.output, self.think = array("q"), array("q"), array("d")
        self.session, self.parent = array("q"), array("q")
        self.ids, self.ends = array("q"), array("q", [0])
        self.places: list[tuple[str, int]] = []
        """File and number in it of each row."""
        self.files = 0
        self.next_id = 0
        self.dropped = 0
        self.cut_off = 0
        self.without_think = 0

    def read(self, file: Source) -> None:
        """Add one file's session."""
        first, first_id = len(self.prompt), len(self.ids)
        for position, row in enumerate(_requests(_session(file), file.name), 1):
            self._add(file, position, row, first)
        ids, ends = ints(self.ids[first_id:]), ints(self.ends[first:]) - first_id
        if len(ids):
            _check_local(ids, file)
            check_chain(ids, ends, lambda row: self._place(first + row), "hash_ids")
            self.ids[first_id:] = array("q", (ids + self.next_id).tobytes())
            self.next_id += int(ids.max()) + 1
        self.files += 1

    def _add(self, file: Source, position: int, row: Row, first: int) -> None:
        place = f"{file.name} request {position}"
        if row.get("in") is None or whole(row, "in", place) < 1:
            self.dropped += 1
            return
        output = 0 if row.get("out") is None else whole(row, "out", place)
        think = row.get("think_time")
        self.cut_off += output < 1
        self.without_think += think is None
        self.parent.append(len(self.prompt) - 1 if len(self.prompt) > first else -1)
        self.prompt.append(whole(row, "in", place))
        self.output.append(max(output, 1))
        self.think.append(0.0 if think is None else number(row, "think_time", place))
        self.session.append(self.files)
        self.ids.extend(integers(row, "hash_ids", place))
        self.ends.append(len(self.ids))
        self.places.append((file.name, position))

    def trace(self) -> Trace:
        """Return the sessions as closed-loop rows."""
        counts = {
            "requests without prompt tokens dropped": self.dropped,
            "requests without output tokens counted with one": self.cut_off,
            "requests without think_time sent at once": self.without_think,
        }
        return Trace(
            name=self.source.name,
            arrival=np.zeros(len(self.prompt)),
            prompt_tokens=ints(self.prompt),
            output_tokens=ints(self.output),
            block_ids=ints(self.ids),
            block_offsets=ints(self.ends),
            block_tokens=BLOCK_TOKENS,
            session=ints(self.session),
            parent=ints(self.parent),
            think=floats(self.think),
            notes=tuple(f"{count:,} {what}" for what, count in counts.items() if count),
        )

    def origin(self) -> Origin:
        """Return where each request was read; the chains have been checked file by file."""
        return Origin(self.source.name, FIELDS, self._place, Coverage.FLOOR)

    def _place(self, row: int) -> str:
        file, position = self.places[row]
        return f"{file} request {position}"


def _files(source: Source) -> list[Source]:
    if not source.path.is_dir():
        return [source]
    return [Source(path) for path in sorted(source.path.rglob("*")) if _is_session(path)]


def _is_session(path: Path) -> bool:
    return path.name.endswith((".json", ".json.gz"))


def _session(file: Source) -> Row:
    with file.text() as stream:
        try:
            session = json.load(stream)
        except json.JSONDecodeError as error:
            raise InputError(f"{file.name}: not JSON: {error}") from error
    if not isinstance(session, dict) or not isinstance(session.get("requests"), list):
        raise InputError(f"{file.name}: not a kv-cache-tester session: it has no list `requests`")
    size = session.get("block_size", BLOCK_TOKENS)
    if size != BLOCK_TOKENS:
        raise InputError(f"{file.name}: block_size is {size!r}; it must be {BLOCK_TOKENS}")
    return session


def _requests(session: Row, name: str) -> Iterator[Row]:
    """Yield requests in order, those of sub-agents in the place of their agent."""
    requests = session.get("requests")
    if not isinstance(requests, list):
        raise InputError(f"{name}: `requests` of a sub-agent is {repr(requests)[:40]}; it must be a list")
    for row in requests:
        if not isinstance(row, dict):
            raise InputError(f"{name}: a request is {repr(row)[:40]}; it must be an object")
        if row.get("type") == "subagent":
            yield from _requests(row, name)
        else:
            yield row


def _check_local(ids: np.ndarray[tuple[int], np.dtype[np.int64]], file: Source) -> None:
    if ids.min() < 0 or ids.max() >= 2**40:
        wrong = ids[(ids < 0) | (ids >= 2**40)][0]
        raise InputError(f"{file.name}: hash_ids holds {wrong}; it must hold integers from 0 to 2^40 − 1")


def _matches(head: Head) -> bool:
    if head.kind == "folder":
        return any(name.endswith((".json", ".json.gz")) for name in head.keys)
    return has("json", "requests", "block_size")(head)


FORMAT = Format("kv-cache-tester", read, _matches)
