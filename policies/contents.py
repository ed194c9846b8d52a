"""Names for the prefixes of sequences: equal names mean equal tokens up to there."""

from __future__ import annotations

from math import gcd

from kvsim.request import Sequence, Workload

PRIVATE_PROMPT = 1 << 40
OUTPUT = 1 << 50
REQUEST_STRIDE = 1 << 22
"""Token ids of row i: private prompt position p is 2⁴⁰ + i·2²² + p, output k is 2⁵⁰ + i·2²² + k."""


class Contents:
    """Keys of a workload's blocks at one grain (tokens a block).

    The key of block j names all tokens before (j + 1)·grain, so a chain of parents is built in. Keys of
    shared content are interned integers ≥ 0; content that no other request can have gets a key < 0 that is
    computed, never stored.
    """

    def __init__(self, workload: Workload | None, grain: int) -> None:
        """Read nothing yet; rows are interned when they are first asked for."""
        self.grain = grain
        self._workload = workload
        self._nodes: dict[tuple[object, ...], int] = {}
        self._last: tuple[int, list[int]] = (-1, [])
        """The row asked for last: a request at the head of the queue is looked up at every step."""
        ids = None if workload is None else workload.block_ids
        self.shares_nothing = ids is None or len(ids) == 0
        self.outputs_are_shared = bool(
            ids is not None
            and workload is not None
            and workload.block_tokens == 1
            and len(ids)
            and ids.max() >= PRIVATE_PROMPT
        )
        """Whether some prompt repeats another request's generated tokens."""

    def keys(self, sequence: Sequence) -> list[int]:
        """Return the keys of the blocks that the row's ids cover, from the first on."""
        workload = self._workload
        if (
            self.shares_nothing
            or workload is None
            or workload.block_ids is None
            or workload.block_offsets is None
        ):
            return []
        row = sequence.index
        if row == self._last[0] and not self.outputs_are_shared:
            return self._last[1]
        keys = self._read(sequence, workload)
        self._last = row, keys
        return keys

    def _read(self, sequence: Sequence, workload: Workload) -> list[int]:
        assert workload.block_ids is not None
        assert workload.block_offsets is not None
        row = sequence.index
        start, end = int(workload.block_offsets[row]), int(workload.block_offsets[row + 1])
        ids = workload.block_ids[start:end].tolist()
        if self.outputs_are_shared:
            return self._chain(self._tokens(sequence, ids), 1)
        size = workload.block_tokens
        covered = min(len(ids) * size, sequence.prompt_tokens)
        if size % self.grain == 0:
            return self._pieces(ids, size // self.grain)[: covered // self.grain]
        return self._chain(ids, size)[: covered // self.grain]

    def _tokens(self, sequence: Sequence, ids: list[int]) -> list[int]:
        private = PRIVATE_PROMPT + sequence.index * REQUEST_STRIDE
        ids = ids[: sequence.prompt_tokens]
        prompt = ids + [private + position for position in range(len(ids), sequence.prompt_tokens)]
        output = OUTPUT + sequence.index * REQUEST_STRIDE
        return prompt + [output + k for k in range(sequence.tokens - sequence.prompt_tokens)]

    def _pieces(self, ids: list[int], pieces: int) -> list[int]:
        nodes = self._nodes
        node = -1
        keys: list[int] = []
        for block in ids:
            node = nodes.setdefault((node, block), len(nodes))
            keys.extend(range(node * pieces, (node + 1) * pieces))
        return keys

    def _chain(self, ids: list[int], size: int) -> list[int]:
        """Intern blocks that do not end where ids end, by the pieces of ids they consist of."""
        grain, nodes = self.grain, self._nodes
        piece = gcd(grain, size)
        node = -1
        keys: list[int] = []
        for end in range(grain, len(ids) * size + 1, grain):
            parts = tuple((ids[p // size], p % size) for p in range(end - grain, end, piece))
            node = nodes.setdefault((node, parts), len(nodes))
            keys.append(node)
        return keys


def private_key(index: int, block: int) -> int:
    """Return the key of a block that only this request can have."""
    return -((index << 32) + block + 1)
