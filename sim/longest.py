"""Which of the decoding sequences is the longest, for cost models that ask."""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace

from kvsim.job import Job


class Longest:
    """A heap of the decoding sequences by `Job.base`: all decodes grow together, so their order lasts.

    Entries of sequences that have left or were held back since are mended when they come up.
    """

    def __init__(self) -> None:
        """Start without sequences."""
        self._entries: list[tuple[int, int, Job]] = []

    def add(self, job: Job, decodes: int) -> None:
        """Take note of a sequence that decodes from now on, one of so many."""
        if len(self._entries) > 2 * decodes + 16:
            self._entries = [entry for entry in self._entries if _is_current(entry)]
            heapify(self._entries)
        heappush(self._entries, (-job.base, job.stamp, job))

    def at(self, step: int) -> int:
        """Return the length of the longest at this `Batch.step`; 0 when nobody decodes."""
        entries = self._entries
        while entries:
            base, stamp, job = entries[0]
            if not _is_current(entries[0]):
                heappop(entries)
            elif job.base != -base:
                heapreplace(entries, (-job.base, stamp, job))
            else:
                return step - base
        return 0


def _is_current(entry: tuple[int, int, Job]) -> bool:
    _, stamp, job = entry
    return job.decoding and job.stamp == stamp
