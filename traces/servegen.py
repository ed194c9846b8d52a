"""ServeGen client windows: request rates and length distributions, from which a trace is drawn."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import InputError
from kvsim.request import FloatColumn, IntColumn
from kvsim.traces.arrivals import source_of_chance
from kvsim.traces.origin import Origin
from kvsim.traces.reader import Format, Found, Options
from kvsim.traces.source import Head, Source
from kvsim.traces.trace import Trace

MEMBER = re.compile(r"chunk-(\d+)-(trace\.csv|dataset\.json)$")
WINDOW = 600.0
"""Seconds of one window of a trace.csv."""


class Window(NamedTuple):
    """What a client did in one window."""

    start: float
    rate: float
    """Requests a second."""
    cv: float
    """Coefficient of variation of the gaps."""
    family: str
    """Gamma or Weibull; empty when idle."""
    shape: float
    """Of the family; it is what gives the CV."""


class Lengths(NamedTuple):
    """A distribution of token counts."""

    values: IntColumn
    cumulative: FloatColumn
    """Σ probability up to each value; the last is 1."""

    def draw(self, rows: int, rng: np.random.Generator) -> IntColumn:
        """Draw token counts."""
        places = np.searchsorted(self.cumulative, rng.random(rows), "right")
        return self.values[np.minimum(places, len(self.values) - 1)]


class Dataset(NamedTuple):
    """A client's length distributions, which hold from `start` on; clients idle for hours have none."""

    start: FloatColumn
    prompt: list[Lengths]
    output: list[Lengths]


class Client(NamedTuple):
    """One client's day."""

    windows: list[Window]
    dataset: Dataset


def read(source: Source, options: Options) -> Found:
    """Draw every client's arrivals window by window, and lengths from its distributions.

    A window of rate r gets 600·r requests; their gaps are of the window's family and shape and scaled to
    fill it. With `options.rate`, all rates are scaled so that their mean over the whole span is that.
    """
    clients = _clients(source)
    span = WINDOW + max((window.start for client in clients for window in client.windows), default=0.0)
    total = sum(window.rate * WINDOW for client in clients for window in client.windows)
    if not total > 0:
        raise InputError(f"{source.name}: no client sends any request")
    scale = 1.0 if options.rate is None else options.rate * span / total
    rng = source_of_chance(options.seed)
    parts = [part for client in clients for part in _draw(client, scale, rng)]
    arrival, prompt, output = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(arrival, kind="stable")
    note = f"drawn from {len(clients)} clients' windows at a mean of {total * scale / span:.4g} requests/s"
    trace = Trace(
        name=source.name,
        arrival=arrival[order],
        prompt_tokens=prompt[order],
        output_tokens=output[order],
        notes=(f"{note}, seed {options.seed}",),
    )
    return Found(trace=trace, origin=Origin(source.name), rate_used=True)


def _draw(
    client: Client, scale: float, rng: np.random.Generator
) -> Iterator[tuple[FloatColumn, IntColumn, IntColumn]]:
    for window in client.windows:
        expected = window.rate * WINDOW * scale
        # Rounded up with the probability of the fraction, so that scaled-down rates stay right on average.
        rows = int(expected) + int(rng.random() < expected - int(expected)) if scale != 1 else round(expected)
        if rows:
            place = max(int(np.searchsorted(client.dataset.start, window.start, "right")) - 1, 0)
            arrival = window.start + WINDOW * _places(window, rows, rng)
            prompt, output = client.dataset.prompt[place], client.dataset.output[place]
            yield arrival, prompt.draw(rows, rng), output.draw(rows, rng)


def _places(window: Window, rows: int, rng: np.random.Generator) -> FloatColumn:
    """Return where in its window, from 0 to 1, each request arrives.

    The first gap is from the window's start, and a last one reaches to its end.
    """
    if window.family == "Weibull":
        gaps = rng.weibull(window.shape, rows + 1)
    elif window.family == "Gamma":
        gaps = rng.gamma(window.cv**-2, 1.0, rows + 1)
    else:
        gaps = rng.exponential(1.0, rows + 1)
    ends = np.cumsum(gaps)
    return ends[:-1] / ends[-1] if ends[-1] > 0 else rng.random(rows)


def _clients(source: Source) -> list[Client]:
    windows: dict[int, list[Window]] = {}
    datasets: dict[int, Dataset] = {}
    for name, data in _members(source):
        match = MEMBER.search(name)
        if match is None:
            continue
        client, text = int(match[1]), _decoded(name, data)
        if match[2] == "trace.csv":
            windows[client] = [
                _window(name, line, row) for line, row in enumerate(csv.reader(io.StringIO(text)), 1)
            ]
        else:
            datasets[client] = _dataset(name, text)
    if not windows:
        raise InputError(f"{source.name}: no chunk-N-trace.csv in it")
    busy = {n for n, rows in windows.items() if any(window.rate > 0 for window in rows)}
    for client in sorted(busy):
        if client not in datasets or not datasets[client].prompt:
            raise InputError(f"{source.name}: chunk-{client}-dataset.json is missing or has no lengths")
    return [Client(windows[client], datasets[client]) for client in sorted(busy)]


def _members(source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file of the folder or archive."""
    if source.path.is_dir():
        for path in sorted(source.path.rglob("chunk-*")):
            with Source(path).binary() as stream:
                yield path.name, stream.read()
        return
    try:
        with source.binary() as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name, content.read()
    except tarfile.TarError as error:
        raise InputError(f"{source.name}: the tar archive is damaged or cut short: {error}") from error


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 text: {error.reason}") from error


def _window(name: str, line: int, row: list[str]) -> Window:
    if len(row) != 6:
        raise InputError(
            f"{name} row {line}: {len(row)} fields; it must have 6: start, rate, CV, family, 2 parameters"
        )
    try:
        start, rate, cv, shape = (float(row[i]) for i in (0, 1, 2, 4))
    except ValueError as error:
        raise InputError(f"{name} row {line}: {error}") from error
    window = Window(start, rate, cv, row[3], shape)
    if row[3] not in ("", "Gamma", "Weibull"):
        raise InputError(f"{name} row {line}: family is {row[3]!r}; it must be Gamma, Weibull or empty")
    if not all(0 <= value < math.inf for value in (start, rate, cv, shape)) or (
        row[3] and not cv * shape > 0
    ):
        raise InputError(
            f"{name} row {line}: {','.join(row)} must be finite and not negative, CV and shape positive"
        )
    return window


def _dataset(name: str, text: str) -> Dataset:
    try:
        windows = sorted((float(start), window) for start, window in json.loads(text).items())
        found = [
            (start, _lengths(window["input_tokens"]), _lengths(window["output_tokens"]))
            for start, window in windows
        ]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{name}: not a ServeGen dataset: {type(error).__name__}: {error}") from error
    full = [(start, prompt, output) for start, prompt, output in found if prompt and output]
    starts: NDArray[np.float64] = np.array([start for start, _, _ in full])
    return Dataset(starts, [prompt for _, prompt, _ in full], [output for _, _, output in full])


def _lengths(text: str) -> Lengths | None:
    """Parse the literal `{tokens: probability, …}`; None when it is empty."""
    inside = text.strip().removeprefix("{").removesuffix("}").strip()
    if not inside:
        return None
    pairs = np.array([pair.split(":") for pair in inside.split(",")], np.float64)
    return Lengths(pairs[:, 0].astype(np.int64), np.cumsum(pairs[:, 1]) / pairs[:, 1].sum())


def _matches(head: Head) -> bool:
    return head.kind == "tar" or (head.kind == "folder" and any(map(MEMBER.search, head.keys)))


FORMAT = Format("servegen", read, _matches)
