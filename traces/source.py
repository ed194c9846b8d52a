"""A trace file as bytes or text: gzip is seen through, and what cannot be read is one clear error."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from kvsim.errors import InputError

HEAD_BYTES = 65536
"""How much of a file is looked at to tell its format."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or a folder of them."""

    path: Path

    @property
    def name(self) -> str:
        """File name without the folder, as it stands in messages."""
        return self.path.name or str(self.path)

    @contextmanager
    def binary(self) -> Iterator[BinaryIO]:
        """Open for reading bytes, unpacked if the file is gzip (told by its first two bytes)."""
        with self._mending(), self.path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                file.seek(0)
                with gzip.open(file) as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                file.seek(0)
                yield file

    @contextmanager
    def text(self) -> Iterator[TextIO]:
        """Open for reading UTF-8 text; line ends are translated."""
        with self.binary() as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
            yield text

    @contextmanager
    def utf8(self) -> Iterator[BinaryIO]:
        """Open for reading bytes that are checked to be UTF-8 as they pass."""
        with self.binary() as stream:
            yield cast(BinaryIO, Utf8Bytes(stream))

    def head(self) -> Head:
        """Look at the beginning, as far as is needed to tell the format."""
        if self.path.is_dir():
            return Head("folder", frozenset(entry.name for entry in self.path.rglob("*") if entry.is_file()))
        with self.binary() as stream:
            start = stream.read(HEAD_BYTES)
        if not start.strip():
            raise InputError(f"{self.name}: the file is empty")
        if start.startswith(b"PAR1"):
            return Head("parquet", frozenset())
        if start[257:262] == b"ustar":
            return Head("tar", frozenset())
        return self._text_head(start)

    def _text_head(self, start: bytes) -> Head:
        with self._mending():
            whole = len(start) < HEAD_BYTES
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(start, final=whole).lstrip()
        if text.startswith(("{", "[")):
            return Head("json", _json_keys(text))
        header = next(iter(text.splitlines()), "")
        return Head("csv", frozenset(field.strip() for field in next(csv.reader([header]), [])))

    @contextmanager
    def _mending(self) -> Iterator[None]:
        """Turn what reading may raise into one line."""
        try:
            yield
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name}: not UTF-8 text: {error.reason}, byte {_byte(error)}") from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{self.name}: the gzip data is damaged or cut short: {error}") from error
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: there is no such file or folder") from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class Head:
    """What can be told from the beginning of a file."""

    kind: str
    """`csv`, `json`, `parquet`, `tar` or `folder`."""
    keys: frozenset[str]
    """Column names of the header, keys of the first JSON objects, or the files in a folder."""


class Utf8Bytes(io.RawIOBase):
    """A stream that raises UnicodeDecodeError when what passes is not UTF-8."""

    def __init__(self, stream: BinaryIO) -> None:
        """Wrap an open binary stream."""
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read and check up to `size` bytes."""
        data = self._stream.read(size)
        self._decoder.decode(data, final=not data)
        return data


def shown(names: Iterable[str]) -> str:
    """Return names from a file as a list for a message, on one line and not too long."""
    listed = [repr(name)[1:-1] for name in names]
    return ", ".join(listed[:12])[:200] + (", …" if len(listed) > 12 else "") if listed else "none"


def _json_keys(text: str) -> frozenset[str]:
    """Return the keys of the first line's object, or what look like keys if it is not one."""
    try:
        first = json.loads(text.splitlines()[0])
    except ValueError:
        return frozenset(re.findall(r'"([^"\\]+)"\s*:', text))
    return frozenset(first) if isinstance(first, dict) else frozenset()


def _byte(error: UnicodeDecodeError) -> str:
    return f"0x{error.object[error.start]:02x}"
