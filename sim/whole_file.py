"""Files that others see whole or not at all."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path
from typing import IO

from kvsim.errors import InputError


class WholeFile:
    """A file with a temporary name until `keep` renames it; a name that ends in .gz is packed."""

    def __init__(self, target: Path, level: int = 9) -> None:
        """Open the temporary file beside the target; raise InputError where that is not possible."""
        self.target = target
        try:
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        except OSError as error:
            raise InputError(f"{target}: cannot be written: {error.strerror}") from error
        self._temporary: Path | None = Path(name)
        self._raw = os.fdopen(handle, "wb")
        is_packed = target.suffix == ".gz"
        # No name and no time in the header: the same run gives the same bytes.
        packed = gzip.GzipFile("", "wb", level, fileobj=self._raw, mtime=0) if is_packed else None
        self._packed = packed
        self._out: IO[bytes] | gzip.GzipFile = packed or self._raw

    def write(self, data: bytes) -> None:
        """Append bytes."""
        try:
            self._out.write(data)
        except OSError as error:
            raise InputError(f"{self.target}: cannot be written: {error.strerror or error}") from error

    def keep(self) -> None:
        """Give the file its name; a second call does nothing."""
        if self._temporary is None:
            return
        try:
            self._close()
            os.chmod(self._temporary, 0o644)
            os.replace(self._temporary, self.target)
        except OSError as error:
            self.discard()
            raise InputError(f"{self.target}: cannot be written: {error.strerror or error}") from error
        self._temporary = None

    def discard(self) -> None:
        """Remove what was written, unless it was kept."""
        if self._temporary is None:
            return
        self._close()
        self._temporary.unlink(missing_ok=True)
        self._temporary = None

    def _close(self) -> None:
        if self._packed is not None:
            self._packed.close()
        self._raw.close()
