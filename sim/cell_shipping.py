"""Files for workers that cannot reach them: packed as bytes, kept once a machine under their hash."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

from kvsim.cell_inputs import InputFile, content_hash, folder_files


def packed(file: InputFile) -> bytes:
    """Return a file, or a folder's files, as an uncompressed tar; the folder above keeps its name.

    Readers name a model after the folder its config.json lies in, and a trace after its file.
    """
    path = Path(file.path)
    stream = io.BytesIO()
    try:
        with tarfile.open(fileobj=stream, mode="w", dereference=True) as archive:
            for inner in folder_files(path) if path.is_dir() else [path]:
                archive.add(inner, _inside(path) / inner.relative_to(path))
    except OSError:
        return b""  # gone since it was hashed; whoever gets nothing says so
    return stream.getvalue()


def received(file: InputFile, content: bytes | None) -> Path | None:
    """Return where this machine keeps a file that was sent to it, now or earlier; None if it never was."""
    home = _cache() / file.sha256
    target = home / _inside(Path(file.path))
    if target.exists() and content_hash(target) == file.sha256:
        return target
    if not content:
        return None
    with tempfile.TemporaryDirectory(dir=_cache()) as temporary:
        working = Path(temporary) / "kept"
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(working, filter="data")
        if content_hash(working / target.relative_to(home)) != file.sha256:
            return None
        shutil.rmtree(home, ignore_errors=True)
        # Another worker of this machine may have been first.
        with suppress(OSError):
            os.rename(working, home)
    return target if content_hash(target) == file.sha256 else None


def _inside(path: Path) -> Path:
    return Path(path.parent.name or "root") / path.name


def _cache() -> Path:
    """Return this user's folder for such files; what is in it is trusted by hash only."""
    folder = Path(tempfile.gettempdir()) / f"kvsim-files-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
