"""Block tables, free queue and hashes as detailed logs have them: what the engine itself never looks at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from kvsim.replica import Replica, StepRecord
from kvsim.request import Sequence


@runtime_checkable
class BlockTables(Protocol):
    """What a detailed log asks of a policy with blocks."""

    def tables(self, sequence: Sequence) -> list[list[int]]:
        """Return the sequence's block table per group."""

    def free_queue(self) -> list[int]:
        """Return the free blocks in the order in which they will be taken."""

    def hashed(self, running: Iterable[Sequence]) -> list[int]:
        """Return the blocks with a content hash, those filled by these sequences included."""


def hashed_blocks(replica: Replica, ended: StepRecord, last: StepRecord) -> list[int]:
    """Return the blocks with a content hash when a step has `ended`, `last` being the last one scheduled.

    The engine lets decoding sequences name their blocks late, when that can no longer be missed; here it
    catches up with them. A sequence in both steps did not know its last token when `last` was scheduled
    (rule Y4).
    """
    assert isinstance(replica.policy, BlockTables)
    batch = replica.batch
    unknown = {row for row, _ in ended.scheduled} & {row for row, _ in last.scheduled}
    if not replica.under_way:
        unknown.clear()
    decoding = [job for job in batch.running.values() if job.index not in batch.prefilling]
    before = [(job.computed, job.tokens) for job in decoding]
    for job in decoding:
        computed = batch.length(job)
        job.computed = computed - (job.index in unknown)
        job.tokens = job.computed + 1
    hashed = replica.policy.hashed(decoding)
    for job, (computed, tokens) in zip(decoding, before, strict=True):
        job.computed, job.tokens = computed, tokens
    return hashed
