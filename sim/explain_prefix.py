"""Why prompts were not found in the prefix cache: never seen, evicted, or too short."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from kvsim.engine import Simulation
    from kvsim.job import Job
    from kvsim.replica import StepRecord
    from kvsim.request import Sequence


class Lookup(NamedTuple):
    """What became of the tokens of one prompt when the request was first admitted; they add up to the prompt."""

    request: int
    hit: int
    """Found."""
    evicted: int
    """In full blocks with content that was computed before, and is not found any more."""
    never_seen: int
    """In full blocks with content that nobody had computed before."""
    too_short: int
    """In the last block, which is not full, or whose last token has to be computed to get an output."""


class _Keys(Protocol):
    def keys(self, sequence: Sequence) -> list[int]: ...


class PrefixWatch:
    """Classify the lookups of one simulation whose policy shares blocks by content.

    A block counts as computed before once some request has KV for all of its tokens. It may be missed though
    it is still there, where a block before it is gone, or where windowed layers have given theirs back; that is
    counted as evicted.
    """

    def __init__(self, simulation: Simulation) -> None:
        """Name contents as the policies do."""
        self.lookups: list[Lookup] = []
        policy = simulation.replica.policy
        self._size = int(getattr(policy, "block_size", 1))
        # By name, since the core knows none of the packages that build on it.
        contents = importlib.import_module("kvsim.policies.contents").Contents
        self._contents: _Keys = contents(simulation.workload, self._size)
        self._simulation = simulation
        self._seen: set[int] = set()
        self._filling: dict[int, tuple[list[int], int]] = {}
        """Prompts under way: keys of their shared blocks, and tokens computed."""
        self._known: set[int] = set()
        """Rows admitted at least once and not done."""

    def step(self, record: StepRecord) -> None:
        """Take in a step that has just been planned."""
        running = self._simulation.replica.batch.running
        admitted = {row for row, _ in record.admitted}
        for job in record.planned.preempted:
            self._filling.pop(job.index, None)
        if self._filling:
            for row, tokens in record.scheduled:
                if row in self._filling and row not in admitted:
                    self._fill(row, tokens)
        tokens_of = dict(record.scheduled) if admitted else {}
        for row, found in record.admitted:
            keys = self._contents.keys(running[row])
            if row not in self._known:
                self._known.add(row)
                self.lookups.append(self._lookup(running[row], keys, found))
            self._filling[row] = keys, found
            self._fill(row, tokens_of[row])
        for job in record.planned.finished:
            self._known.discard(job.index)
            # Answers may be prompts of others later.
            self._seen.update(self._contents.keys(job)[: job.computed // self._size])

    def _fill(self, row: int, tokens: int) -> None:
        """Let a prompt get on by so many tokens."""
        keys, before = self._filling[row]
        computed = before + tokens
        self._seen.update(keys[before // self._size : computed // self._size])
        if computed // self._size >= len(keys):
            del self._filling[row]
        else:
            self._filling[row] = keys, computed

    def _lookup(self, job: Job, keys: list[int], found: int) -> Lookup:
        size, prompt, seen = self._size, job.prompt_tokens, self._seen
        # The last token is always computed: only blocks before its own can be hit.
        whole = max(found // size, (prompt - 1) // size)
        # Groups with blocks of other sizes, and radix trees, may end a hit inside a block, even the last one.
        end = max(found, whole * size)
        evicted = min(sum(key in seen for key in keys[found // size : whole]) * size, end - found)
        return Lookup(job.index, found, evicted, end - found - evicted, prompt - end)
