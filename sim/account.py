"""What a planned step computes and what memory it reads, in sums."""

from __future__ import annotations

from kvsim.batch import Batch, Job
from kvsim.cost import Step
from kvsim.planner import Plan
from kvsim.policy import Span


class Account:
    """Turn a plan and the batch's running sums into a `Step` and into live slots."""

    def __init__(self, batch: Batch, attention: tuple[Span, ...], slots: tuple[Span, ...]) -> None:
        """`attention` are layers by window, `slots` the slots a token takes by window."""
        self._batch = batch
        self._attention = attention
        self._slots = slots
        self._place = {window: number for number, window in enumerate(batch.windows)}

    def step(self, plan: Plan) -> Step:
        """Return the features that a step is priced by."""
        batch = self._batch
        held_back = [batch.length(job) for job in plan.stalled]
        decodes = batch.decodes - len(held_back)
        context = batch.context - sum(held_back)
        reads = tuple([self._decode_reads(span.window, held_back) for span in self._attention])
        if not plan.chunks:
            return Step(decodes, context, decodes, reads)
        chunks = [(job.computed, tokens) for job, tokens in plan.chunks.values()]
        prefill_tokens = sum(tokens for _, tokens in chunks)
        return Step(
            tokens=decodes + prefill_tokens,
            context=context + sum(length for length, _ in chunks),
            decodes=decodes,
            decode_context=reads,
            prefills=len(chunks),
            prefill_tokens=prefill_tokens,
            prefill_context=tuple(
                sum(_seen(*chunk, span.window) for chunk in chunks) for span in self._attention
            ),
            prefill_area=tuple(
                sum(area(*chunk, span.window) for chunk in chunks) for span in self._attention
            ),
        )

    def live(self, ending: dict[int, Job]) -> tuple[int, int]:
        """Return the slots that attention reads, shared ones counted for each reader, and Σ length."""
        batch = self._batch
        chunks = [(job.computed, job.chunk) for job in batch.prefilling.values()]
        if ending:
            chunks += [(job.computed, 1) for job in ending.values()]
        length = batch.context + sum(computed for computed, _ in chunks)
        live = 0
        for window, weight in self._slots:
            if window is None:
                live += weight * length
            else:
                seen = batch.windowed[self._place[window]] + sum(_seen(*chunk, window) for chunk in chunks)
                live += weight * seen
        return live, length

    def _decode_reads(self, window: int | None, without: list[int]) -> int:
        if window is None:
            return self._batch.context - sum(without)
        return self._batch.windowed[self._place[window]] - sum(min(length, window) for length in without)


def _seen(length: int, tokens: int, window: int | None) -> int:
    """Return how many KV tokens the queries of a chunk see, together."""
    return length if window is None else min(length, window - 1 + tokens)


def area(length: int, tokens: int, window: int | None) -> int:
    """Return Σ over a chunk's queries of the KV tokens each attends to, itself included.

    `length` counts the chunk. Without a window that is tokens · (first + length) / 2.
    """
    first = length - tokens + 1
    if window is None or length <= window:
        return tokens * (first + length) // 2
    if first >= window:
        return tokens * window
    rising = window - first
    return rising * (first + window - 1) // 2 + (tokens - rising) * window
