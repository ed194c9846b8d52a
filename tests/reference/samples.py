"""Rules N: several sequences of one prompt, samples or beams, with reference counts for every block.

N1: a request is one sequence until its prompt is computed, and `samples` from the step on that computes the last of it.
N2: the prompt is computed once; after it every sequence computes a token a step.
N3: all sequences of a request get a token in a step, or none; each counts for the sequences that may run.
N4: memory is told by what holds KV: until N1's step only the first sequence does.
N5: who writes where others refer to, too, copies first. Beams are forked before the next token is written, as `parents`
    says: place i goes on from place parents[i], and beams that nobody goes on from die at once.
N6: a preempted request is put away whole, each block once, and comes back as it was.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from reference.groups import Hit, ceil_div
from reference.paged import PagedMemory
from reference.request import Request

COPY_SPEED = 2.0**10
LINK_SPEED = 2.0**8
"""Bytes a second within the memory, and between it and where preempted requests are put; a token has one byte."""


class NoBlockError(Exception):
    """The free queue is empty."""


class SampledMemory(PagedMemory):
    """One group of full attention, one table a sequence."""

    CHANGING = ("pool", "tables", "written", "forked", "away", "copies", "waits")
    """What an attempt that fails puts back."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Start with every block free and nothing put away."""
        super().__init__(config)
        self.samples: int = config["samples"]
        self.parents = config["parents"]
        self.size = self.groups[0].block_size
        self.written: dict[int, int] = {}
        self.forked: dict[int, int] = {}
        self.away: dict[int, tuple[int, list[list[int]], int, int]] = {}
        """Per row: tokens, tables as they were, tokens written, outputs forked for."""
        self.copies = 0
        self.waits = 0.0

    def needs_alone(self, tokens: int) -> int:
        """L4: with nothing in common but a prompt shorter than a block."""
        return self.samples * ceil_div(tokens, self.size)

    def never_fits(self, request: Request) -> bool:
        """Say whether its final length needs more than the whole pool: full blocks of the prompt are shared."""
        common = request.prompt // self.size
        needed = common + self.samples * (ceil_div(request.final_length, self.size) - common)
        if request.final_length == request.prompt:
            needed = ceil_div(request.prompt, self.size)
        return needed > self.pool.num_blocks - 1

    def lookup(self, request: Request) -> Hit:
        """N6: find what was put away."""
        return Hit(self.away[request.index][0] if request.index in self.away else 0, [[]])

    def admit(self, request: Request, hit: Hit, tokens: int, others_run: bool) -> bool:
        """Take what comes back and what the chunk needs, or nothing; with the gate, only if all so far would fit."""
        before = deepcopy([getattr(self, name) for name in self.CHANGING])
        upto = hit.tokens + tokens
        if self.config["scheduler_reserve_full_isl"]:
            fits = self.enters(request, request.tokens, others_run)
            self.put_back(before)
            if not fits:
                return False
        before = deepcopy(before)
        fits = self.enters(request, upto, others_run)
        if not fits:
            self.put_back(before)
        return fits

    def enters(self, request: Request, upto: int, others_run: bool) -> bool:
        """Try it, and leave everything as far as one got."""
        try:
            self.bring_back(request)
            self.write(request, upto)
        except NoBlockError:
            return False
        return len(self.pool.queue) >= self.watermark(others_run)

    def put_back(self, before: list[Any]) -> None:
        """Undo an attempt."""
        for name, value in zip(self.CHANGING, before, strict=True):
            setattr(self, name, value)

    def grow(self, request: Request, tokens: int) -> bool:
        """N5: fork, which only gives back; then write, or take nothing and say no."""
        upto = request.computed + tokens
        self.fork_upto(request, upto)
        before = deepcopy([getattr(self, name) for name in self.CHANGING])
        try:
            self.write(request, upto)
        except NoBlockError:
            self.put_back(before)
            return False
        return True

    def fork_upto(self, request: Request, upto: int) -> None:
        """Fork as the outputs were chosen that the first `upto` tokens end with."""
        if self.parents is not None:
            for output in range(self.forked[request.index] + 1, upto - request.prompt + 1):
                self.fork(request, self.parents(request.index, output))
                self.forked[request.index] = output

    def fork(self, request: Request, parents: tuple[int, ...]) -> None:
        """Let each place go on from its parent."""
        before = self.tables[request.index]
        changed = [place for place in range(self.samples) if parents[place] != place]
        after = list(before)
        for place in changed:
            after[place] = list(before[parents[place]])
            for block in after[place]:
                self.pool.hit(block)
        for place in changed:
            self.pool.free(before[place][::-1])
        self.tables[request.index] = after

    def write(self, request: Request, upto: int) -> None:
        """Write the tokens that have no place yet in every table; all refer to the prompt once it is there."""
        tables = self.tables[request.index]
        for table in tables:
            for position in range(self.written[request.index], upto):
                self.write_one(table, position)
        self.written[request.index] = max(upto, self.written[request.index])
        if upto >= request.prompt and len(tables) == 1:
            for _ in range(self.samples - 1):
                for block in tables[0]:
                    self.pool.hit(block)
                tables.append(list(tables[0]))

    def write_one(self, table: list[int], position: int) -> None:
        """Write a token into the block it belongs to: a new one, a copy, or in place."""
        index = position // self.size
        if index == len(table):
            table.append(self.take_one())
        elif self.pool.holders[table[index]] > 1:
            self.pool.free([table[index]])
            table[index] = self.take_one()
            self.copies += 1
            self.waits += self.size / COPY_SPEED
        assert self.pool.holders[table[index]] == 1

    def take_one(self) -> int:
        """Take a block, if there is one."""
        if not self.pool.queue:
            raise NoBlockError
        return self.pool.take(1)[0]

    def put_away(self, request: Request) -> None:
        """N6: keep what the request has, without beams that die; its blocks are freed by `release`."""
        self.fork_upto(request, request.computed + 1)
        tables = [list(table) for table in self.tables[request.index]]
        row = request.index
        self.away[row] = request.computed, tables, self.written[row], self.forked[row]
        self.waits += len({block for table in tables for block in table}) * self.size / LINK_SPEED

    def bring_back(self, request: Request) -> None:
        """N6: give it blocks that are shared as they were; or an empty table, if it was never here."""
        row = request.index
        _, tables, written, forked = self.away.pop(row, (0, [[]], 0, 1))
        new: dict[int, int] = {}
        for table in tables:
            for index, block in enumerate(table):
                if block in new:
                    self.pool.hit(new[block])
                else:
                    new[block] = self.take_one()
                table[index] = new[block]
        self.tables[row], self.written[row], self.forked[row] = tables, written, forked
        self.waits += len(new) * self.size / LINK_SPEED

    def seconds(self) -> float:
        """Return what the step waits for."""
        waits, self.waits = self.waits, 0.0
        return waits
