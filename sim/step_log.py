"""The step log: what every engine step did, one JSON object a line, as vLLM's recorder writes it."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, TextIO

from kvsim.errors import InputError
from kvsim.replica import StepRecord


def step_row(number: int, record: StepRecord, asynchronous: bool) -> dict[str, object]:
    """Return one step as the log has it; times are seconds, `ts` is there when asynchronous."""
    planned = record.planned
    row: dict[str, object] = {"kind": "step", "step": number, "t0": planned.start, "t1": planned.end}
    if asynchronous:
        row["ts"] = planned.scheduled_at
    return row | {
        "sched": [list(pair) for pair in record.scheduled],
        "new": [list(pair) for pair in record.admitted],
        "preempt": [job.index for job in planned.preempted],
        "fin": [job.index for job in planned.finished],
        "run": record.running,
        "wait": record.waiting,
        "blk": record.blocks,
        "ctx": planned.work.context,
    }


class StepLog:
    """Write every step a replica runs to a file or a stream; set it as `replica.watch`.

        with StepLog("steps.jsonl.gz") as log:
            simulation.replica.watch = log
            simulation.run()

    A file has a temporary name until `close`, which renames it; a run that fails leaves none. A name that
    ends in .gz is packed. A stream is written to and left open.
    """

    def __init__(self, target: str | Path | TextIO, asynchronous: bool = False) -> None:
        """Open the file; raise InputError where that is not possible."""
        self.asynchronous = asynchronous
        self.steps = 0
        """Rows written so far."""
        self._file = _WholeFile(Path(target)) if isinstance(target, str | Path) else None
        self._stream = None if isinstance(target, str | Path) else target

    def __call__(self, record: StepRecord) -> None:
        """Write a step."""
        line = json.dumps(step_row(self.steps, record, self.asynchronous), separators=(",", ":")) + "\n"
        self.steps += 1
        if self._stream is not None:
            self._stream.write(line)
        elif self._file is not None:
            self._file.write(line.encode())

    def close(self) -> None:
        """Give the file its name; closing twice does nothing more."""
        if self._file is not None:
            self._file.keep()

    def discard(self) -> None:
        """Remove what was written so far."""
        if self._file is not None:
            self._file.discard()

    def __enter__(self) -> StepLog:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close after a run that went through; leave nothing of one that failed."""
        self.close() if kind is None else self.discard()


class _WholeFile:
    """A file that others see whole or not at all."""

    def __init__(self, target: Path) -> None:
        self.target = target
        try:
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        except OSError as error:
            raise InputError(f"{target}: cannot be written: {error.strerror}") from error
        self._temporary: Path | None = Path(name)
        self._raw = os.fdopen(handle, "wb")
        # No name and no time in the header: the same run gives the same bytes.
        packed = gzip.GzipFile("", "wb", fileobj=self._raw, mtime=0) if target.suffix == ".gz" else None
        self._packed = packed
        self._out: IO[bytes] | gzip.GzipFile = packed or self._raw

    def write(self, data: bytes) -> None:
        try:
            self._out.write(data)
        except OSError as error:
            raise InputError(f"{self.target}: cannot be written: {error.strerror or error}") from error

    def keep(self) -> None:
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
        if self._temporary is None:
            return
        self._close()
        self._temporary.unlink(missing_ok=True)
        self._temporary = None

    def _close(self) -> None:
        if self._packed is not None:
            self._packed.close()
        self._raw.close()
