"""A small random serving run, as the engine would make it, for checking a policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvsim.beam import Beam
from kvsim.policy import Pool, Span
from kvsim.request import FloatColumn, IntColumn, Sequence

if TYPE_CHECKING:
    from kvsim.probe import Probe

SPARE = 2048
REAL = 1 << 14
"""Makes a layer's token of 4 bytes one of 64 KiB."""


def tight_pools(rng: np.random.Generator, rounds: int) -> Iterator[Pool]:
    """Draw tight pools: plain, hybrid, windowed; some too small for max_model_len, some given in blocks.

    A token has a few bytes, but in every fourth pool as many as in a real model, for policies of real pages.
    """
    layouts = ((Span(None, 1),), (Span(None, 1), Span(24, 3)), (Span(None, 4),), (Span(40, 2),))
    for number in range(rounds):
        spans = layouts[number // 2 % len(layouts)]
        tokens = int(rng.integers(200, 1500))
        token_bytes = 4 * sum(span.weight for span in spans)
        longest = (tokens // 2, 2 * tokens) if number % 4 == 1 else (32, tokens // 2)
        scale = REAL if number % 4 == 3 else 1
        yield Pool(
            kv_bytes=(tokens * token_bytes + int(rng.integers(0, token_bytes))) * scale,
            token_bytes=token_bytes * scale,
            max_model_len=int(rng.integers(*longest)),
            max_num_batched_tokens=int(rng.choice([32, 100, 8192])),
            spans=spans,
            num_gpu_blocks_override=tokens // 16 + 1 if number % 3 == 2 else None,
        )


def sample_pools(rng: np.random.Generator, rounds: int) -> Iterator[Pool]:
    """Draw tight pools for requests of several samples or beams; their layers attend to everything."""
    for pool in tight_pools(rng, rounds):
        width = int(rng.integers(2, 6))
        beam = Beam(width=width, turnover=float(rng.choice([0.5, 4.0, 20.0])), seed=1)
        if all(span.window is None for span in pool.spans):
            yield replace(
                pool, width=width, beam=beam if rng.random() < 0.5 else None, swap_is_unlimited=True
            )


class Prompts:
    """A workload of random prompts; some of them begin alike. It satisfies `kvsim.request.Workload`.

    Behind the `served` rows come spare ones of a single token, to count how many fit at once.
    """

    def __init__(self, prompt_tokens: list[int], output_tokens: list[int]) -> None:
        """Start with private prompts that all arrive at once."""
        self.served = len(prompt_tokens)
        prompt_tokens = prompt_tokens + [1] * SPARE
        output_tokens = output_tokens + [1] * SPARE
        self.prompt_tokens: IntColumn = np.array(prompt_tokens, dtype=np.int64)
        self.arrival: FloatColumn = np.zeros(len(prompt_tokens))
        self.priority: IntColumn | None = None
        self.block_ids: IntColumn | None = None
        self.block_offsets: IntColumn | None = None
        self.block_tokens = 0
        self.parent: IntColumn | None = None
        self.think: FloatColumn | None = None
        self.hides_outputs = False
        self._outputs: IntColumn = np.array(output_tokens, dtype=np.int64)
        self._ids: list[list[int]] = [[] for _ in prompt_tokens]

    @classmethod
    def random(cls, rng: np.random.Generator, rows: int, longest: int, *, shared: bool) -> Prompts:
        """Draw rows whose prompt and outputs together need at most `longest` tokens of KV."""
        prompt = [int(rng.integers(1, max(2, longest // int(rng.choice([1, 2, 4]))))) for _ in range(rows)]
        output = [1 + int(rng.integers(0, min(64, longest - tokens) + 1)) for tokens in prompt]
        prompts = cls(prompt, output)
        if shared:
            prompts._share(rng)
        return prompts

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.arrival)

    @property
    def output_tokens(self) -> IntColumn:
        """Tokens that will be generated; only an oracle may look."""
        if self.hides_outputs:
            raise AssertionError(
                "a policy without `oracle` in its name reads the true length (output_tokens)"
            )
        return self._outputs

    @property
    def are_shared(self) -> bool:
        """Whether any content has an identity."""
        return self.block_ids is not None

    def final(self, sequence: Sequence) -> int:
        """Return the tokens that have KV in the end: the last output never gets any."""
        return int(self.prompt_tokens[sequence.index] + self._outputs[sequence.index]) - 1

    def true_tokens(self, sequence: Sequence) -> int:
        """Return the final length to an oracle; anyone else is caught."""
        if self.hides_outputs:
            raise AssertionError("a policy without `oracle` in its name reads the true length (true_tokens)")
        return self.final(sequence)

    def known(self, sequence: Sequence, admitted: list[int]) -> int:
        """Return the most tokens of a sequence that the admitted ones can have left behind."""
        if sequence.index in admitted:
            return sequence.tokens - 1
        return max((self._alike(sequence.index, other) for other in set(admitted)), default=0)

    def _alike(self, row: int, other: int) -> int:
        pairs = zip(self._ids[row], self._ids[other], strict=False)
        equal = next((at for at, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
        blocks = min(len(self._ids[row]), len(self._ids[other])) if equal is None else equal
        return min(blocks * self.block_tokens, int(self.prompt_tokens[row]), int(self.prompt_tokens[other]))

    def _share(self, rng: np.random.Generator) -> None:
        self.block_tokens = int(rng.choice([1, 5, 16, 64]))
        for row, tokens in enumerate(self.prompt_tokens[: self.served].tolist()):
            most = -(-tokens // self.block_tokens)
            common = int(rng.integers(0, most + 1))
            chain = 100_000 * int(rng.integers(1, 4))
            own = 1_000_000 * (row + 1)
            covered = int(rng.integers(common, most + 1))
            self._ids[row] = [(chain if at < common else own) + at for at in range(covered)]
        self.block_ids = np.array([key for ids in self._ids for key in ids], dtype=np.int64)
        self.block_offsets = np.cumsum([0, *map(len, self._ids)], dtype=np.int64)


class Rehearsal:
    """Serve a workload: running first, then waiting in order; the last admitted is preempted first."""

    def __init__(self, probe: Probe, pool: Pool, prompts: Prompts, rng: np.random.Generator) -> None:
        """Queue the rows that the policy does not refuse for good."""
        self.admissions = 0
        self._probe = probe
        self._prompts = prompts
        self._rng = rng
        self._budget = pool.max_num_batched_tokens
        self._running: list[Sequence] = []
        lengths = prompts.prompt_tokens[: prompts.served].tolist()
        rows = (Sequence(row, 0.0, tokens) for row, tokens in enumerate(lengths))
        refuses = probe.policy.refuses_request
        self._waiting = deque(row for row in rows if refuses(row.prompt_tokens, prompts.final(row)) is None)

    def serve(self) -> None:
        """Step until nothing is left; then the pool must be whole."""
        while self._running or self._waiting:
            self._probe.step += 1
            self._step()
        usage = self._probe.usage(None)
        left = (usage.held, usage.shared, self._probe.policy.blocks_in_use)
        self._probe.check(left == (0, 0, 0), f"everything was released, but memory is still held: {usage}")

    def _step(self) -> None:
        scheduled, preempted = self._schedule_running()
        if not preempted:
            self._admit(scheduled)
        self._probe.usage(self._waiting[0] if self._waiting else None)
        for sequence, _ in scheduled:
            self._end_step(sequence)
        if self._running and self._rng.random() < 0.02:
            self._preempt()
        self._probe.usage(None)
        self._probe.transfers()

    def _schedule_running(self) -> tuple[list[tuple[Sequence, int]], bool]:
        scheduled: list[tuple[Sequence, int]] = []
        budget = self._budget
        preempted = False
        for sequence in list(self._running):
            tokens = min(sequence.tokens - sequence.computed, budget)
            while sequence in self._running and not self._probe.grow(sequence, sequence.computed + tokens):
                self._probe.check(
                    len(self._running) > 1,
                    f"{sequence} is not refused by refuses({self._prompts.final(sequence)}), is alone, "
                    f"and still cannot grow to {sequence.computed + tokens} tokens",
                )
                self._preempt()
                preempted = True
            if sequence not in self._running:
                break
            self._compute(sequence, tokens, scheduled)
            budget -= tokens
            if not budget:
                break
        return scheduled, preempted

    def _admit(self, scheduled: list[tuple[Sequence, int]]) -> None:
        budget = self._budget - sum(tokens for _, tokens in scheduled)
        while self._waiting and budget:
            sequence = self._waiting[0]
            tokens = self._probe.admit(sequence, budget)
            if tokens is None:
                self._probe.check(
                    bool(self._running),
                    f"{sequence} is not refused by refuses({self._prompts.final(sequence)}), "
                    "but cannot be admitted into an empty pool",
                )
                return
            self._running.append(self._waiting.popleft())
            self.admissions += 1
            self._compute(sequence, tokens, scheduled)
            budget -= tokens

    def _compute(self, sequence: Sequence, tokens: int, scheduled: list[tuple[Sequence, int]]) -> None:
        sequence.computed += tokens
        sequence.chunk = tokens
        scheduled.append((sequence, tokens))

    def _end_step(self, sequence: Sequence) -> None:
        if sequence.computed < sequence.tokens:
            return
        sequence.tokens += 1
        if sequence.computed == self._prompts.final(sequence):
            self._running.remove(sequence)
            self._probe.release(sequence, finished=True)

    def _preempt(self) -> None:
        victim = self._running.pop()
        self._probe.release(victim, finished=False)
        self._waiting.appendleft(victim)
