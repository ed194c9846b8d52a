"""Trace rows as the recorder reads them: JSONL of arrivals, lengths and prompt contents.

Other formats become such rows with `kvsim trace convert`. Fields that vLLM has no use for are left out.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.errors import InputError

PRIVATE_PROMPT = 1 << 40
PRIVATE_OUTPUT = 1 << 50
REQUEST_STRIDE = 1 << 22
"""Token ids set aside for one request, in each of the two private ranges."""

Row = dict[str, Any]
"""A line of a trace: JSON, so its values are of any type."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of a trace, and the token ids it stands for."""

    index: int
    arrival: float
    """Seconds."""
    output_len: int
    """Tokens it generates; vLLM's max_tokens, there is no end-of-sequence token."""
    prompt_len: int
    prompt_token_ids: tuple[int, ...] | None = None
    hash_ids: tuple[int, ...] | None = None
    priority: int | None = None
    output_token_ids: tuple[int, ...] | None = None

    def prompt(self, hash_block_tokens: int) -> list[int]:
        """Return the prompt's token ids.

        Hash id h stands for the `hash_block_tokens` tokens h·hash_block_tokens + 0, 1, …; position p past
        the hash ids is 2⁴⁰ + index·2²² + p, so nobody else's.
        """
        if self.prompt_token_ids is not None:
            return list(self.prompt_token_ids)
        size = hash_block_tokens
        shared = [token for h in self.hash_ids or () for token in range(h * size, h * size + size)]
        own = PRIVATE_PROMPT + self.index * REQUEST_STRIDE
        covered = min(len(shared), self.prompt_len)
        return shared[:covered] + list(range(own + covered, own + self.prompt_len))

    def output_token(self, number: int) -> int:
        """Return the id of output `number`: the trace's own, or 2⁵⁰ + index·2²² + number."""
        if self.output_token_ids is not None and number < len(self.output_token_ids):
            return self.output_token_ids[number]
        return PRIVATE_OUTPUT + self.index * REQUEST_STRIDE + number

    def line(self) -> str:
        """Return the row as one line of JSON."""
        row: Row = {"arrival_s": self.arrival}
        if self.prompt_token_ids is None:
            row["prompt_len"] = self.prompt_len
        else:
            row["prompt_token_ids"] = self.prompt_token_ids
        row["output_len"] = self.output_len
        for name in ("hash_ids", "priority", "output_token_ids"):
            if (value := getattr(self, name)) is not None:
                row[name] = value
        return json.dumps(row, separators=(",", ":")) + "\n"


def read_rows(path: Path, hash_block_tokens: int | None) -> list[TraceRow]:
    """Read a .jsonl or .jsonl.gz trace; InputError names file, row and field of what is wrong."""
    rows: list[TraceRow] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path.name} row {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: must be an object, got {type(row).__name__}")
        rows.append(_row(len(rows), row, place, hash_block_tokens))
    if not rows:
        raise InputError(f"{path.name}: the trace has no rows")
    return rows


def read_text(path: Path) -> str:
    """Read a text file, unpacked when it is gzip."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path.name}: the gzip data is damaged or cut short: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _row(index: int, row: Row, place: str, hash_block_tokens: int | None) -> TraceRow:
    _refuse_closed_loop(row, place)
    prompt_ids = _ids(row, "prompt_token_ids", place)
    if prompt_ids is None:
        length = _whole(row, "prompt_len", place, least=0)
    elif row.get("prompt_len", len(prompt_ids)) != len(prompt_ids):
        raise InputError(
            f"{place}: prompt_len is {row['prompt_len']!r}; prompt_token_ids has {len(prompt_ids)}"
        )
    else:
        length = len(prompt_ids)
    hash_ids = None if prompt_ids is not None else _ids(row, "hash_ids", place)
    if hash_ids:
        _check_hash_ids(hash_ids, length, place, hash_block_tokens)
    found = TraceRow(
        index=index,
        arrival=_arrival(row, place),
        output_len=_whole(row, "output_len", place, least=1),
        prompt_len=length,
        prompt_token_ids=prompt_ids,
        hash_ids=hash_ids,
        priority=None if row.get("priority") is None else _whole(row, "priority", place),
        output_token_ids=_ids(row, "output_token_ids", place),
    )
    if found.prompt_len + found.output_len > REQUEST_STRIDE:
        raise InputError(f"{place}: prompt_len + output_len must be at most {REQUEST_STRIDE}")
    return found


def _refuse_closed_loop(row: Row, place: str) -> None:
    if row.get("parent", -1) not in (-1, None):
        raise InputError(f"{place}: parent is {row['parent']!r}; only rows with an arrival can be recorded")
    if row.get("samples", 1) not in (1, None):
        raise InputError(f"{place}: samples is {row['samples']!r}; only one answer a request can be recorded")


def _arrival(row: Row, place: str) -> float:
    value = row.get("arrival_s")
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise InputError(f"{place}: arrival_s must be a number of seconds ≥ 0, got {value!r}")
    return float(value)


def _whole(row: Row, name: str, place: str, least: int | None = None) -> int:
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        allowed = "an integer" if least is None else f"an integer ≥ {least}"
        raise InputError(f"{place}: {name} must be {allowed}, got {value!r}")
    return value


def _ids(row: Row, name: str, place: str) -> tuple[int, ...] | None:
    values = row.get(name)
    if values is None:
        return None
    if not isinstance(values, list) or any(type(value) is not int or value < 0 for value in values):
        raise InputError(f"{place}: {name} must be a list of integers ≥ 0")
    return tuple(values)


def _check_hash_ids(ids: tuple[int, ...], length: int, place: str, size: int | None) -> None:
    if size is None:
        raise InputError(f"{place}: hash_ids need --hash-block-tokens, the tokens that one id stands for")
    if len(ids) > (most := -(-length // size)):
        raise InputError(
            f"{place}: hash_ids has {len(ids)} ids of {size} tokens for a prompt_len of {length}; "
            f"it can have at most {most}"
        )
    if max(ids) >= PRIVATE_PROMPT // size:
        raise InputError(f"{place}: hash_ids must hold integers below {PRIVATE_PROMPT // size}")
