"""Copies that samples and beams need where each has memory of its own."""

from __future__ import annotations

from kvsim.beam import Lineage
from kvsim.policy import Lease, Pool
from kvsim.request import Sequence


class SampleCopies:
    """Count the copies within the GPU's memory, and end leases where one is due.

    When the sequences of a request part, the prompt's KV is copied to all but one. When a beam dies, the KV of the one
    that is forked in its place is copied whole, as systems without block tables do (arXiv 2309.06180, §6.3).
    """

    def __init__(self, pool: Pool) -> None:
        """Start with nothing copied."""
        self.copies = 0
        """Sequences copied so far."""
        self.copied_bytes = 0
        self._width = pool.width
        self._beam = pool.beam
        self._token_bytes = pool.token_bytes
        self._bytes_per_second = pool.copy_bytes_per_second
        self._timed_bytes = 0
        self._chosen: dict[int, int] = {}
        """Outputs by row at which sequences parted or were forked."""
        self._lineages: dict[int, Lineage] = {}

    def admit(self, sequence: Sequence, tokens: int, size: int) -> Lease:
        """Return the lease of a request whose pieces have `size` tokens: to the end of its prompt if it will part."""
        if self._width == 1:
            return Lease(size)
        self._chosen[sequence.index] = 0
        if self._beam is not None:
            self._lineages[sequence.index] = self._beam.lineage(sequence.index)
        return self.grow(sequence, tokens, size)

    def grow(self, sequence: Sequence, tokens: int, size: int) -> Lease:
        """Copy for the outputs up to the one that now gets its place, and say until when there is no more to copy."""
        if self._width == 1:
            return Lease(size)
        row, prompt = sequence.index, sequence.prompt_tokens
        outputs, lineage = tokens - prompt, self._lineages.get(row)
        if outputs < 1:
            return Lease(prompt)
        if not self._chosen[row]:
            self._copy(self._width - 1, prompt)
        if lineage is None:
            self._chosen[row] = outputs
            return Lease(size)
        for output in range(self._chosen[row] + 1, outputs + 1):
            parents = lineage.parents(output) or ()
            self._copy(sum(place != parent for place, parent in enumerate(parents)), prompt + output - 1)
        self._chosen[row] = outputs
        return Lease(lineage.next_fork(outputs, size + 1 - prompt) + prompt - 1)

    def forget(self, sequence: Sequence) -> None:
        """Forget a request that gives its memory back."""
        self._chosen.pop(sequence.index, None)
        self._lineages.pop(sequence.index, None)

    def take_seconds(self) -> float:
        """Return and forget the seconds of copying since the last call."""
        new, self._timed_bytes = self.copied_bytes - self._timed_bytes, self.copied_bytes
        return new / self._bytes_per_second

    def _copy(self, sequences: int, tokens: int) -> None:
        self.copies += sequences
        self.copied_bytes += sequences * tokens * self._token_bytes
