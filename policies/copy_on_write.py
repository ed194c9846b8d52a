"""Block tables of several sequences with one prompt: shared blocks, copied when one of their holders writes."""

from __future__ import annotations

from kvsim.beam import Lineage
from kvsim.policies.block_pool import StackPool
from kvsim.policies.swap import SwapSpace
from kvsim.policy import Lease, Pool
from kvsim.request import Sequence


class Samples:
    """The sequences of one request: a block table each, one while the prompt is not computed."""

    __slots__ = ("chosen", "lineage", "tables", "unfilled", "written")

    def __init__(self, lineage: Lineage | None) -> None:
        """Start with one empty table; `lineage` says how beams will fork."""
        self.lineage = lineage
        self.tables: list[list[int]] = [[]]
        self.written = 0
        """Tokens that have a place in every table."""
        self.chosen = 1
        """Outputs at which forks were made; the first one is where the samples part."""
        self.unfilled = 0
        """Tokens not filled yet in last blocks that several tables refer to, once for each further table."""


class CopyOnWrite:
    """A pool of blocks with reference counts, for requests of `Pool.width` sequences each.

    After PagedAttention (arXiv 2309.06180, §4.4) and vLLM up to 0.2. Blocks are taken for the prompt once. When it is
    computed all tables refer to them. Whoever writes into a block that others refer to, too, takes a new one and copies
    (the count falls by one), and the last of them writes in place. A beam that dies gives back what only it refers to,
    and its successor refers to all of its parent's blocks. A preempted request goes to the swap space, each block once.
    """

    def __init__(self, blocks: StackPool, swap: SwapSpace, pool: Pool, block_size: int) -> None:
        """Take blocks from a pool that nobody else takes from."""
        self.copies = 0
        """Blocks copied so far."""
        self._blocks = blocks
        self._swap = swap
        self._width = pool.width
        self._beam = pool.beam
        self._block_size = block_size
        self._away: dict[int, Samples] = {}
        self._references = [0] * blocks.num_blocks
        self._extra = 0
        """Σ (references − 1) over the blocks that are held."""
        self._unfilled = 0
        """Σ `Samples.unfilled`."""

    def needed(self, sequence: Sequence, tokens: int) -> int:
        """Count the blocks that a waiting request takes to have `tokens` tokens."""
        samples = self._away.get(sequence.index)
        if samples is None:
            return -(-tokens // self._block_size)
        held = {block for table in samples.tables for block in table}
        return len(held) + self._missing(samples, sequence, tokens)

    def admit(self, sequence: Sequence, tokens: int) -> Lease:
        """Give a request its blocks, those that were swapped out first; they are there."""
        samples = self._away.pop(sequence.index, None)
        if samples is None:
            samples = Samples(None if self._beam is None else self._beam.lineage(sequence.index))
        else:
            self._swap.bring_back(sequence)
            self._come_back(samples)
        sequence.memory = samples
        return self._write(sequence, samples, tokens)

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Fork whom the step before chose, then give everybody a place for the next token, or nobody."""
        samples = samples_of(sequence)
        if tokens > sequence.prompt_tokens:
            # Under a lease tokens were written without a call.
            samples.written = max(samples.written, tokens - 1)
        self._fork(samples, sequence, tokens)
        if self._missing(samples, sequence, tokens) > self._blocks.free:
            return None
        return self._write(sequence, samples, tokens)

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Free all tables; of a preempted request each block goes to the swap space once."""
        samples = samples_of(sequence)
        if not finished:
            samples.written = max(samples.written, sequence.lost)
            # Who goes on from whom is known from the step before, so beams that die need not be kept.
            self._fork(samples, sequence, sequence.lost + 1)
            self._swap.put_samples(sequence, len({block for table in samples.tables for block in table}))
            self._away[sequence.index] = samples
        self._unfilled -= samples.unfilled
        for table in samples.tables:
            self._drop(table)
        sequence.memory = None

    def shared_tokens(self) -> int:
        """Count the tokens that several tables refer to, once for each further table."""
        return self._extra * self._block_size - self._unfilled

    def reach(self, sequence: Sequence, final: int) -> int:
        """Count the tokens that all tables have and will have filled of what they hold, at length `final`."""
        samples = samples_of(sequence)
        covered = min(len(samples.tables[0]) * self._block_size, final)
        if samples.written > sequence.prompt_tokens:
            return len(samples.tables) * covered
        # What is left of a shared last block will be filled once: all but one of its holders go elsewhere.
        return (len(samples.tables) - 1) * samples.written + covered

    def most_blocks(self, prompt: int, tokens: int) -> int:
        """Count the blocks of a request at `tokens` tokens whose sequences have only the prompt in common.

        ⌊prompt / B⌋ + width · (⌈tokens / B⌉ − ⌊prompt / B⌋), and ⌈prompt / B⌉ before the first is written.
        """
        common = prompt // self._block_size
        if tokens <= prompt:
            return -(-prompt // self._block_size)
        return common + self._width * (-(-tokens // self._block_size) - common)

    def _write(self, sequence: Sequence, samples: Samples, tokens: int) -> Lease:
        """Let all tables have places for `tokens` tokens, writing from `written` on."""
        size, tables = self._block_size, samples.tables
        if samples.written < tokens:
            for table in tables:
                tail = samples.written // size
                if tail < len(table) and self._references[table[tail]] > 1:
                    self._copy(table, tail)
                self._take(table, -(-tokens // size) - len(table))
            samples.written = tokens
        if tokens >= sequence.prompt_tokens and len(tables) < self._width:
            for _ in range(self._width - 1):
                tables.append(self._refer(tables[0]))
        self._settle(samples)
        return Lease(self._until(sequence, samples))

    def _missing(self, samples: Samples, sequence: Sequence, tokens: int) -> int:
        """Count the blocks that `_write` would take."""
        if samples.written >= tokens:
            return 0
        tables, tail = samples.tables, samples.written // self._block_size
        new = -(-tokens // self._block_size) - len(tables[0])
        if tail >= len(tables[0]):
            return new * len(tables)
        return new * len(tables) + len(tables) - len({table[tail] for table in tables})

    def _fork(self, samples: Samples, sequence: Sequence, tokens: int) -> None:
        """Let beams die and be forked as the outputs up to the one that is now written were chosen."""
        if samples.lineage is None:
            return
        for output in range(samples.chosen + 1, tokens - sequence.prompt_tokens + 1):
            parents = samples.lineage.parents(output)
            if parents is not None:
                before = samples.tables
                samples.tables = [
                    table if parents[place] == place else self._refer(before[parents[place]])
                    for place, table in enumerate(before)
                ]
                for place, table in enumerate(before):
                    if parents[place] != place:
                        self._drop(table)
                self._settle(samples)
            samples.chosen = output

    def _until(self, sequence: Sequence, samples: Samples) -> int:
        """Return the length at which blocks run out, or somebody writes first, or a beam is forked."""
        written, prompt = samples.written, sequence.prompt_tokens
        if written <= prompt:
            return written
        until = len(samples.tables[0]) * self._block_size
        if samples.lineage is None:
            return until
        return samples.lineage.next_fork(written - prompt, until + 1 - prompt) + prompt - 1

    def _settle(self, samples: Samples) -> None:
        """Note how much of shared last blocks is not filled."""
        tables = samples.tables
        further = len(tables) - len({table[-1] for table in tables})
        unfilled = further * (len(tables[0]) * self._block_size - samples.written)
        self._unfilled += unfilled - samples.unfilled
        samples.unfilled = unfilled

    def _take(self, table: list[int], count: int) -> None:
        for block in self._blocks.take(max(0, count)):
            self._references[block] = 1
            table.append(block)

    def _copy(self, table: list[int], place: int) -> None:
        """Put a copy into a table in place of a block that others refer to, too."""
        self._references[table[place]] -= 1
        self._extra -= 1
        (table[place],) = self._blocks.take(1)
        self._references[table[place]] = 1
        self.copies += 1

    def _refer(self, table: list[int]) -> list[int]:
        """Return a table that refers to the same blocks."""
        for block in table:
            self._references[block] += 1
        self._extra += len(table)
        return list(table)

    def _drop(self, table: list[int]) -> None:
        """Give up a table, and those of its blocks that no other refers to, last block first."""
        gone = []
        for block in reversed(table):
            self._references[block] -= 1
            if self._references[block]:
                self._extra -= 1
            else:
                gone.append(block)
        self._blocks.give_back(gone)

    def _come_back(self, samples: Samples) -> None:
        """Put new blocks into the places of those that were swapped out, shared as they were."""
        new: dict[int, int] = {}
        for table in samples.tables:
            for place, block in enumerate(table):
                if block in new:
                    table[place] = new[block]
                    self._references[table[place]] += 1
                    self._extra += 1
                else:
                    (table[place],) = self._blocks.take(1)
                    new[block] = table[place]
                    self._references[table[place]] = 1
        samples.unfilled = 0
        self._settle(samples)


def samples_of(sequence: Sequence) -> Samples:
    """Return the tables of a request that holds memory."""
    samples = sequence.memory
    assert isinstance(samples, Samples), f"{sequence} holds no memory"
    return samples
