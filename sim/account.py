"""What a planned step computes and what memory it reads, in sums."""

from __future__ import annotations

from collections.abc import Iterator
from operator import add

from kvsim.batch import Batch
from kvsim.cost import Step
from kvsim.job import Job
from kvsim.plan import Plan
from kvsim.policy import Span
from kvsim.window import area, seen


class Account:
    """Turn a plan and the batch's running sums into a `Step` and into live slots."""

    def __init__(
        self, batch: Batch, attention: tuple[Span, ...], slots: tuple[Span, ...], width: int = 1
    ) -> None:
        """`attention` are layers by window, `slots` the slots a token takes by window.

        A request is `width` sequences from the step that computes the last token of its prompt on; where that is more
        than one, there are no windows.
        """
        self._batch = batch
        self._width = width
        self._attention = attention
        self._slots = slots
        self._slots_per_token = sum(span.weight for span in slots)
        self._is_plain = [span.window for span in attention] == [None]
        self._slot_weight = slots[0].weight if [span.window for span in slots] == [None] else 0
        self._place = {window: number for number, window in enumerate((*batch.windows, *batch.chunks))}

    def step(self, plan: Plan, shared: int) -> Step:
        """Return the features that a step is priced by; `shared` are the slots read more than once (`Usage`)."""
        batch, width = self._batch, self._width
        decodes, context = batch.decodes, batch.context
        held_back = [batch.length(job) for job in plan.stalled] if plan.stalled else []
        if held_back:
            decodes -= len(held_back)
            context -= sum(held_back)
        decodes *= width
        context *= width
        if self._is_plain:
            reads: tuple[int, ...] = (context,)
        else:
            reads = tuple([self._decode_reads(span.window, held_back) for span in self._attention])
        shared //= self._slots_per_token
        longest = self._longest(plan) if batch.longest is not None else 0
        if not plan.chunks:
            return Step(decodes, context, decodes, reads, decode_shared=shared, decode_longest=longest)
        prefills, tokens, lengths, read, areas = self._prefills(plan)
        shared = max(0, shared - self._cached()) if shared else 0
        tokens_in_all, reach = decodes + tokens, context + lengths
        return Step(tokens_in_all, reach, decodes, reads, prefills, tokens, read, areas, shared, longest)

    def _prefills(self, plan: Plan) -> tuple[int, int, int, tuple[int, ...], tuple[int, ...]]:
        """Return how many sequences compute a chunk, its tokens, Σ of their lengths, and per span what `Step` has."""
        lengths = tokens = whole_area = 0
        for job, chunk in plan.chunks.values():
            length = job.computed
            lengths += length
            tokens += chunk
            whole_area += chunk * (2 * length - chunk + 1) // 2
        more, further = self._further(plan) if self._width > 1 else (0, 0)
        lengths += further
        prefills, tokens = len(plan.chunks) + more, tokens + more
        if self._is_plain:
            return prefills, tokens, lengths, (lengths,), (whole_area + further,)
        chunks = [(job.computed, chunk) for job, chunk in plan.chunks.values()]
        windows = [span.window for span in self._attention]
        read = tuple([sum([seen(*chunk, window) for chunk in chunks]) for window in windows])
        areas = tuple([sum([area(*chunk, window) for chunk in chunks]) for window in windows])
        return prefills, tokens, lengths, read, areas

    def decoding(self) -> tuple[int, int]:
        """Return the live slots while everybody decodes, shared ones counted for each, and what a step adds."""
        batch = self._batch
        if self._slot_weight:
            slots = self._slot_weight * self._width
            return slots * batch.context, slots * batch.decodes
        live = more = 0
        for window, weight in self._slots:
            if window is None:
                live += weight * batch.context
                more += weight * batch.decodes
            else:
                place = self._place[window]
                live += weight * batch.windowed[place]
                more += weight * batch.growing[place]
        return live, more

    def decode_steps(self, shared: int) -> Iterator[Step]:
        """Go through the steps ahead in which everybody decodes and no window fills up."""
        shared //= self._slots_per_token
        batch, width = self._batch, self._width
        decodes, context = batch.decodes * width, batch.context * width
        longest, longer = (0, 0) if batch.longest is None else (batch.longest.at(batch.step), 1)
        places = [None if span.window is None else self._place[span.window] for span in self._attention]
        reads = [context if place is None else batch.windowed[place] for place in places]
        more = [decodes if place is None else batch.growing[place] for place in places]
        while True:
            context += decodes
            longest += longer
            reads = list(map(add, reads, more))
            yield Step(decodes, context, decodes, tuple(reads), decode_shared=shared, decode_longest=longest)

    def live(self, ending: dict[int, Job]) -> tuple[int, int]:
        """Return the slots that attention reads, shared ones counted for each reader, and Σ length."""
        batch, width = self._batch, self._width
        if self._slot_weight:
            length = batch.context * width
            for job in batch.prefilling.values():
                length += job.computed
                if width > 1 and job.computed >= job.prompt_tokens:
                    length += job.computed * (width - 1)
            for job in ending.values():
                length += job.computed * width
            return self._slot_weight * length, length
        chunks = [(job.computed, job.chunk) for job in batch.prefilling.values()]
        if ending:
            chunks += [(job.computed, 1) for job in ending.values()]
        length = batch.context + sum(computed for computed, _ in chunks)
        live = 0
        for window, weight in self._slots:
            if window is None:
                live += weight * length
            else:
                read = batch.windowed[self._place[window]] + sum(seen(*chunk, window) for chunk in chunks)
                live += weight * read
        return live, length

    def _longest(self, plan: Plan) -> int:
        batch = self._batch
        if batch.longest is not None and not plan.stalled:
            return batch.longest.at(batch.step)
        stalled = plan.stalled_rows()
        decoding = (job for row, job in batch.running.items() if job.decoding and row not in stalled)
        return max(map(batch.length, decoding), default=0)

    def _further(self, plan: Plan) -> tuple[int, int]:
        """Return the chunks that sequences beyond each request's first compute, a token each, and Σ of their lengths.

        Only what comes back from swap goes on as several sequences.
        """
        back = [job.computed for job, _ in plan.chunks.values() if job.tokens > job.prompt_tokens]
        return (self._width - 1) * len(back), (self._width - 1) * sum(back)

    def _cached(self) -> int:
        """Return how many of the tokens that the prefills read others may read, too."""
        jobs, more = self._batch.prefilling.values(), self._width - 1
        found = sum([job.found for job in jobs])
        if more:
            found += more * sum([job.computed for job in jobs if job.computed >= job.prompt_tokens])
        return found

    def _decode_reads(self, window: int | None, without: list[int]) -> int:
        if window is None:
            return self._batch.context - sum(without)
        return self._batch.windowed[self._place[window]] - sum(seen(length, 1, window) for length in without)
