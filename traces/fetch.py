"""Download a known public trace, resumed where it broke off, and verified."""

from __future__ import annotations

import hashlib
import http.client
import os
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from kvsim.errors import InputError, nearest

BASE_URL = "https://raw.githubusercontent.com"
BASE_URL_VARIABLE = "KVSIM_FETCH_BASE_URL"
"""Environment variable with another place to download from, such as a mirror."""
CHUNK = 1 << 16
"""Bytes read at a time."""
PATIENCE = 30.0
"""Seconds without an answer before giving up."""
BROKEN_LINE = (ConnectionError, TimeoutError, http.client.HTTPException)
"""What reading raises when the other side goes away."""

Progress = Callable[[int, int], None]
"""Told the bytes there are so far and the bytes there will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A public trace at a fixed version."""

    name: str
    """What `kvsim trace fetch` calls it."""
    about: str
    """One line on what it holds."""
    repository: str
    """Owner and name on GitHub."""
    commit: str
    """Version, as a commit hash."""
    path: str
    """Where the file is in the repository."""
    licence: str
    """What its publisher allows."""
    cite: str
    """The paper to cite."""
    bytes: int
    """Size of the file."""
    sha256: str
    """Hash of the file."""

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return Path(self.path).name

    def address(self, base_url: str | None = None) -> str:
        """Return where it is: at base_url, else the environment's, else GitHub's."""
        base = base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
        return f"{base.rstrip('/')}/{self.repository}/{self.commit}/{self.path}"


@cache
def known() -> dict[str, Known]:
    """Return the traces that can be fetched, by name."""
    text = files("kvsim.traces").joinpath("known.toml").read_text(encoding="utf-8")
    return {name: Known(name=name, **table) for name, table in tomllib.loads(text).items()}


def fetch(
    name: str, folder: Path | str = ".", base_url: str | None = None, progress: Progress | None = None
) -> Path:
    """Download a known trace into a folder and return its path.

    A file already there is only checked. What arrives is kept in `FILE.part` until it is whole and its
    sha256 is right, so that calling again goes on where the line broke. Raises InputError when it cannot
    be had, with the address and the place to put it by hand.
    """
    if name not in known():
        raise InputError(f"unknown trace {name!r}{nearest(name, known())}; known: {', '.join(known())}")
    trace = known()[name]
    target = Path(folder) / trace.file_name
    if target.exists():
        return _already(trace, target)
    address = trace.address(base_url)
    try:
        _obtain(trace, address, target, progress)
    except InputError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _explained(error, address, trace, target) from None
    return target


def _obtain(trace: Known, address: str, target: Path, progress: Progress | None) -> None:
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if _size(part) != trace.bytes:
            _download(trace, address, part, progress)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
        raise
    _check(trace, part, address)
    part.replace(target)


def _already(trace: Known, target: Path) -> Path:
    if _sha256(target) != trace.sha256:
        raise InputError(
            f"{target} exists and is not {trace.name} (its sha256 is not {trace.sha256}); "
            "move it away or choose another folder"
        )
    return target


def _download(trace: Known, address: str, part: Path, progress: Progress | None) -> None:
    """Add what is missing to the part file; start again where the server cannot go on."""
    have = _size(part)
    if have > trace.bytes:
        part.unlink()
        have = 0
    request = urllib.request.Request(address, headers={"User-Agent": "kvsim"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if goes_on else 0
        with part.open("ab" if goes_on else "wb") as file, suppress(*BROKEN_LINE):
            # One byte too many is enough to know that it is another file.
            while have <= trace.bytes and (chunk := answer.read1(CHUNK)):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, trace.bytes)
    if have < trace.bytes:
        raise InputError(
            f"{address} broke off after {have:,} of {trace.bytes:,} bytes; run the command again to go on"
        )


def _check(trace: Known, part: Path, address: str) -> None:
    found = _sha256(part)
    if found != trace.sha256:
        part.unlink()
        raise InputError(
            f"what {address} sent is not {trace.name}: its sha256 is {found}, not {trace.sha256}; "
            "it was deleted"
        )


def _explained(error: Exception, address: str, trace: Known, target: Path) -> InputError:
    by_hand = f"by hand: download {trace.address(BASE_URL)} and put it at {target}"
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return InputError(f"{address} answers {error.code} {error.reason}; {by_hand}")
    if isinstance(error, urllib.error.URLError | TimeoutError | ConnectionError | http.client.HTTPException):
        reason = getattr(error, "reason", None) or error or type(error).__name__
        return InputError(f"cannot reach {address} ({reason}); {by_hand}")
    if isinstance(error, OSError):
        return InputError(f"cannot write {error.filename or target}: {error.strerror or error}")
    return InputError(f"cannot download from {address}: {error}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
