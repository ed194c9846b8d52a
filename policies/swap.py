"""CPU memory that takes the KV of preempted sequences."""

from __future__ import annotations

import math

from kvsim.errors import InputError
from kvsim.request import Sequence


class SwapSpace:
    """Sequences swapped out whole, by blocks, over a link of given speed.

    Default link speed 50 GB/s each way: H100 over PCIe 5 x16 as measured for vLLM's offloading connector
    (vLLM blog, 2026-01-08). Copies are submitted one after another, each block of each of `tensors` by itself, and take
    `copy_us` microseconds longer than their bytes: 5 to 7 with cudaMemcpyAsync (DualPath, arXiv 2602.21548, §5.2), next
    to none where one call takes them all (vLLM since pull request 38460).
    """

    def __init__(
        self,
        gib: float,
        link_gb_per_s: float,
        block_size: int,
        token_bytes: int,
        copy_us: float = 0.0,
        tensors: int = 1,
    ) -> None:
        """Start empty, with room for ⌊gib·2³⁰ / block bytes⌋ blocks."""
        if not 0 <= gib < math.inf:
            raise InputError(f"swap_space_gib must be a number of GiB from 0 up, got {gib}")
        if not link_gb_per_s > 0:
            raise InputError(f"link_gb_per_s must be above 0 GB/s, got {link_gb_per_s}")
        if not 0 <= copy_us < math.inf:
            raise InputError(f"copy_us must be microseconds from 0 up, got {copy_us}")
        self._gib = gib
        self._block_bytes = block_size * token_bytes
        self._submit_seconds = copy_us * 1e-6 * tensors
        self._block_size = block_size
        self._room = int(gib * 2**30) // self._block_bytes
        self._bytes_per_second = link_gb_per_s * 1e9
        self._held: dict[int, tuple[int, int]] = {}
        self._seconds = 0.0
        self.moved_bytes = 0
        """Bytes over the link so far, both ways."""

    def holds(self, sequence: Sequence) -> int:
        """Return how many leading tokens of the sequence are here."""
        return self._held[sequence.index][0] if sequence.index in self._held else 0

    def put(self, sequence: Sequence) -> None:
        """Copy the computed tokens out, if there is room for all of them."""
        blocks = -(-_tokens(sequence) // self._block_size)
        if blocks and blocks <= self._room:
            self._put(sequence, blocks)

    def put_samples(self, sequence: Sequence, blocks: int) -> None:
        """Copy out the blocks of a request of several sequences, which cannot do without: InputError if they are full.

        As in vLLM up to 0.2, which had no way to compute several sequences again as one.
        """
        if blocks > self._room:
            taken = sum(held for _, held in self._held.values())
            needed = (taken + blocks) * self._block_bytes / 2**30
            raise InputError(
                f"swap_space_gib {self._gib:g} is full: preempted samples and beams are not computed again, and those "
                f"of row {sequence.index} with what is there needed {needed:.4g} GiB so far"
            )
        self._put(sequence, blocks)

    def bring_back(self, sequence: Sequence) -> None:
        """Copy a sequence in again and forget it here."""
        _, blocks = self._held.pop(sequence.index)
        self._room += blocks
        self._move(blocks)

    def take_seconds(self) -> float:
        """Return and forget the seconds of copying since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _put(self, sequence: Sequence, blocks: int) -> None:
        self._room -= blocks
        self._held[sequence.index] = _tokens(sequence), blocks
        self._move(blocks)

    def _move(self, blocks: int) -> None:
        self.moved_bytes += blocks * self._block_bytes
        self._seconds += blocks * self._block_bytes / self._bytes_per_second + blocks * self._submit_seconds


def _tokens(sequence: Sequence) -> int:
    """Return how many tokens have KV: the engine takes back what it scheduled in this step."""
    return min(sequence.computed, sequence.lost)
