"""Rows of JSON objects as columns, each value checked where it is read."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping

import numpy as np

from kvsim.errors import InputError
from kvsim.request import FloatColumn, IntColumn
from kvsim.traces.origin import Coverage, Origin
from kvsim.traces.source import Source, shown
from kvsim.traces.trace import Trace

Row = Mapping[str, object]


def json_rows(source: Source) -> Iterator[tuple[int, Row]]:
    """Yield line number (from 1) and object of every line that is not blank."""
    with source.text() as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{source.name} row {number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{source.name} row {number}: {line.strip()[:40]!r} is not a JSON object")
            yield number, row


def whole(row: Row, field: str, place: str) -> int:
    """Return a whole number of a row; 12.0 is one."""
    value = row.get(field)
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) < value < 2**63:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    raise _wrong(row, field, place, "an integer")


def number(row: Row, field: str, place: str) -> float:
    """Return a number of a row."""
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise _wrong(row, field, place, "a number")


def integers(row: Row, field: str, place: str) -> array[int]:
    """Return a list of integers of a row."""
    value = row.get(field)
    if isinstance(value, list):
        try:
            return array("q", value)
        except (TypeError, OverflowError):
            wrong = next(item for item in value if not isinstance(item, int) or abs(item) >= 2**63)
            raise InputError(
                f"{place}: {field} holds {repr(wrong)[:40]}; it must hold integers below 2^63"
            ) from None
    raise _wrong(row, field, place, "a list of integers")


def _wrong(row: Row, field: str, place: str, wanted: str) -> InputError:
    if field not in row:
        return InputError(f"{place}: no field {field!r}; the fields are {shown(row)}")
    return InputError(f"{place}: {field} is {repr(row[field])[:40]}; it must be {wanted}")


class Collector:
    """Columns growing a row at a time, in 8 bytes a value."""

    def __init__(self, source: Source, fields: Mapping[str, str]) -> None:
        """Start empty; `fields` says what the file calls arrival, prompt_tokens, output_tokens, block_ids."""
        self.source = source
        self.fields = fields
        self.lines = array("q")
        """Line of each row."""
        self.arrival = array("d")
        self.prompt = array("q")
        self.output = array("q")
        self.ids = array("q")
        self.ends = array("q", [0])
        """Where each row's ids end."""

    def add(self, line: int, row: Row) -> str:
        """Take a row's arrival and lengths; return its place, for messages."""
        place = f"{self.source.name} row {line}"
        self.arrival.append(number(row, self.fields["arrival"], place))
        self.prompt.append(whole(row, self.fields["prompt_tokens"], place))
        self.output.append(whole(row, self.fields["output_tokens"], place))
        self.lines.append(line)
        return place

    def add_ids(self, ids: array[int]) -> None:
        """Take the ids of the row added last."""
        self.ids.extend(ids)
        self.ends.append(len(self.ids))

    def trace(self, block_tokens: int = 0, per_second: float = 1.0) -> Trace:
        """Return the columns, with ids of `block_tokens` if that is not 0."""
        ids, offsets = (ints(self.ids), ints(self.ends)) if block_tokens else (None, None)
        return Trace(
            name=self.source.name,
            arrival=floats(self.arrival) / per_second,
            prompt_tokens=ints(self.prompt),
            output_tokens=ints(self.output),
            block_ids=ids,
            block_offsets=offsets,
            block_tokens=block_tokens,
        )

    def origin(self, coverage: Coverage = Coverage.AT_MOST, chained: bool = False) -> Origin:
        """Return where the rows were read."""
        return Origin(self.source.name, self.fields, self._place, coverage, chained)

    def _place(self, row: int) -> str:
        return f"{self.source.name} row {self.lines[row]}"


def ints(values: array[int]) -> IntColumn:
    """Return the array's memory as an int64 column."""
    return np.frombuffer(values, np.int64) if values else np.empty(0, np.int64)


def floats(values: array[float]) -> FloatColumn:
    """Return the array's memory as a float64 column."""
    return np.frombuffer(values, np.float64) if values else np.empty(0)
