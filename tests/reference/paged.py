"""Rules A, C2, P6 and W2: how requests get blocks, keep tables of them, and give them back."""

from __future__ import annotations

import math
from typing import Any

from reference.contents import Names
from reference.groups import Group, Hit, Lookup, ceil_div, grain, keeps, make_groups, name_of, piece_size
from reference.pool import NULL, Pool
from reference.request import Request


class PagedMemory:
    """Blocks for any number of groups, with or without prefix caching."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Start with every block free."""
        self.config = config
        self.pool = Pool(config["num_blocks"])
        self.groups = make_groups(config)
        self.aligned = grain(self.groups)
        self.piece = piece_size(self.groups)
        self.caching: bool = config["enable_prefix_caching"]
        self.names = Names()
        self.chains: dict[int, list[int]] = {}
        self.tables: dict[int, list[list[int]]] = {}
        self.hashed: dict[int, list[int]] = {}
        self.junction: dict[int, int] = {}

    @property
    def in_use(self) -> int:
        """P1: blocks in use."""
        return self.pool.in_use

    def chain(self, request: Request) -> list[int]:
        """C1: the names of the request's pieces."""
        if request.index not in self.chains:
            self.chains[request.index] = self.names.chain(
                request.index, request.row, self.config["hash_block_tokens"], self.piece
            )
        return self.chains[request.index]

    def in_flight(self) -> int:
        """W6, Y6: B, or 2·B with async scheduling."""
        tokens: int = self.config["max_num_batched_tokens"]
        return 2 * tokens if self.config["async_scheduling"] else tokens

    def needs_alone(self, tokens: int) -> int:
        """L4: the blocks that one request of so many tokens can need with nobody else there."""
        total = 0
        for group in self.groups:
            blocks = ceil_div(tokens, group.block_size)
            limit = group.gate_limit(self.in_flight(), self.config["max_model_len"])
            total += blocks if limit is None else min(blocks, limit)
        return total

    def never_fits(self, request: Request) -> bool:
        """Say whether the request's final length needs more than the whole pool."""
        return self.needs_alone(request.final_length) > self.pool.num_blocks - 1

    def lookup(self, request: Request) -> Hit:
        """C3: find what is already there."""
        if not self.caching:
            return Hit(0, [[] for _ in self.groups])
        return Lookup(self.pool, self.groups, self.chain(request)).hit(request.tokens)

    def new_blocks(self, group: Group, hit: Hit, tokens: int, gate: bool) -> int:
        """A1, W6: blocks to take for a table of so many tokens after the hit; the gate is limited."""
        required = ceil_div(tokens, group.block_size)
        limit = group.gate_limit(self.in_flight(), self.config["max_model_len"])
        if gate and limit is not None:
            required = min(required, limit)
        return max(0, required - len(hit.tables[group.index]))

    def free_hits(self, hit: Hit) -> int:
        """A5: hit blocks that leave the free queue."""
        return sum(block != NULL and self.pool.holders[block] == 0 for table in hit.tables for block in table)

    def watermark(self, others_run: bool) -> int:
        """A4: blocks that an admission must leave free, if somebody runs."""
        return math.floor(self.config["watermark"] * self.pool.num_blocks) if others_run else 0

    def admit(self, request: Request, hit: Hit, tokens: int, others_run: bool) -> bool:
        """A2, A3, A4, H1: give tables for the hit and `tokens` more, or take nothing and say no."""
        spare = len(self.pool.queue) - self.free_hits(hit) - self.watermark(others_run)
        if self.config["scheduler_reserve_full_isl"]:
            whole = sum(self.new_blocks(group, hit, request.tokens, gate=True) for group in self.groups)
            if whole > spare:
                return False
        counts = [self.new_blocks(group, hit, hit.tokens + tokens, gate=False) for group in self.groups]
        if sum(counts) > spare:
            return False
        for table in hit.tables:
            for block in table:
                if block != NULL:
                    self.pool.hit(block)
        self.tables[request.index] = [
            table + self.pool.take(count) for table, count in zip(hit.tables, counts, strict=True)
        ]
        self.hashed[request.index] = [len(table) for table in hit.tables]
        self.junction[request.index] = hit.junction
        return True

    def grow(self, request: Request, tokens: int) -> bool:
        """A1, A2, W2: drop what is outside the window, then get blocks for `tokens` more, or none."""
        tables = self.tables[request.index]
        for group, table in zip(self.groups, tables, strict=True):
            self.drop_outside(group, table, request.ended)
        counts = [
            max(0, ceil_div(request.computed + tokens, group.block_size) - len(table))
            for group, table in zip(self.groups, tables, strict=True)
        ]
        if sum(counts) > len(self.pool.queue):
            return False
        for table, count in zip(tables, counts, strict=True):
            table += self.pool.take(count)
        return True

    def drop_outside(self, group: Group, table: list[int], ended: int) -> None:
        """W2, Y3: free the blocks outside, highest first, and put the null block in their places."""
        outside = min(group.outside(ended), len(table))
        dropped = [block for block in reversed(table[:outside]) if block != NULL]
        if dropped:
            self.pool.free(dropped)
            table[:outside] = [NULL] * outside

    def give_hashes(self, request: Request, upto: int) -> None:
        """C2, H3, W5: make the full blocks below `upto` tokens findable, once each."""
        if not self.caching:
            return
        hashed = self.hashed[request.index]
        boundaries = [request.prompt - 1, self.junction[request.index]]
        retention = self.config["prefix_cache_retention_interval"]
        for group, table in zip(self.groups, self.tables[request.index], strict=True):
            full = upto // self.aligned * self.aligned // group.block_size
            for block in range(hashed[group.index], full):
                if table[block] != NULL and keeps(group, block, self.aligned, retention, boundaries):
                    name = name_of(group, block, self.chain(request), self.piece)
                    self.pool.give_hash(table[block], (group.index, name))
            hashed[group.index] = max(hashed[group.index], full)

    def release(self, request: Request) -> None:
        """P6: free each group's table, last block first, group by group."""
        for table in self.tables.pop(request.index):
            self.pool.free(table[::-1])

    def seconds(self) -> float:
        """Return what the step waits for: nothing is copied here."""
        return 0.0

    def detail(self, requests: list[Request]) -> dict[str, Any]:
        """Return the tables of these requests."""
        return {str(r.index): [list(table) for table in self.tables[r.index]] for r in requests}

    def queue_detail(self) -> dict[str, Any]:
        """Return the free queue and the blocks with a hash."""
        hashed = [block for block, key in enumerate(self.pool.key) if key is not None]
        return {"free": list(self.pool.queue), "hashed": hashed}
