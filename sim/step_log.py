"""The step log: what every engine step did, one JSON object a line, as vLLM's recorder writes it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TextIO

from kvsim.replica import StepRecord
from kvsim.whole_file import WholeFile


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
        self._file = WholeFile(Path(target)) if isinstance(target, str | Path) else None
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
