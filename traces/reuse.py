"""How much of a trace's prompt content a prefix cache could serve, at any size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from kvsim.errors import InputError
from kvsim.request import FloatColumn, IntColumn
from kvsim.traces.trace import Trace, select

PERCENTS = (50, 80, 90, 99)
"""Of the hits, at which the time since the last use is told."""
TOP_SHARE = 0.1
"""Of all ids, whose hits are counted apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """Prefix reuse of a trace whose prompts name their content by block ids.

    A reference is one id of one request, in row order. It hits when an earlier reference, of the same
    request or another, named the same id. An id cut short by the end of a prompt hits by block, and by
    token as far as it had been seen.
    """

    block_tokens: int
    """Tokens one id stands for."""
    references: int
    """Ids over all requests."""
    unique: int
    """Different ids."""
    hits: int
    """References served by a cache without limit: references − unique."""
    hit_tokens: int
    """Prompt tokens those hits cover."""
    prompt_tokens: int
    """Prompt tokens over all requests, with or without an id."""
    full_blocks: int
    """Σ ⌊prompt / block_tokens⌋, the denominator of Mooncake's cache ratio (FAST 2025, Table 2)."""
    full_block_hits: int
    """References all of whose `block_tokens` tokens had been seen."""
    top_tenth_hits: int
    """Hits of the tenth of all ids, rounded up, that is hit most."""
    seconds_since: dict[int, float]
    """Time between a hit and the reference before it, by percent of the hits, interpolated linearly."""
    lru_hits: dict[int, int] = field(default_factory=dict)
    """Hits of one LRU cache by its capacity in blocks."""

    @property
    def block_hit_rate(self) -> float:
        """Hits over references."""
        return self.hits / self.references if self.references else 0.0

    @property
    def top_tenth_share(self) -> float:
        """Share of the hits that the most hit tenth of the ids gives."""
        return self.top_tenth_hits / self.hits if self.hits else 0.0

    @property
    def token_hit_rate(self) -> float:
        """Hit tokens over all prompt tokens."""
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def full_block_hit_rate(self) -> float:
        """Full-block hits over full blocks."""
        return self.full_block_hits / self.full_blocks if self.full_blocks else 0.0


def reuse(trace: Trace, capacities: Iterable[int] = ()) -> Reuse | None:
    """Measure a trace's prefix reuse; None when it has no block ids.

    Requests count in order of arrival, and closed-loop ones as if answers took no time.
    Any number of `capacities` (blocks) costs one pass over the references.
    """
    trace, sent = _in_order(trace)
    ids, offsets = trace.block_ids, trace.block_offsets
    if ids is None or offsets is None:
        return None
    previous = previous_references(ids)
    hits = int(np.count_nonzero(previous >= 0))
    tokens = _hit_tokens(_covered(trace, offsets), ids)
    at = np.repeat(sent, np.diff(offsets))
    since = at[previous >= 0] - at[previous[previous >= 0]]
    return Reuse(
        block_tokens=trace.block_tokens,
        references=len(ids),
        unique=len(ids) - hits,
        hits=hits,
        hit_tokens=int(tokens.sum()),
        prompt_tokens=int(trace.prompt_tokens.sum()),
        full_blocks=int((trace.prompt_tokens // trace.block_tokens).sum()),
        full_block_hits=int(np.count_nonzero(tokens == trace.block_tokens)),
        top_tenth_hits=_top_hits(ids, TOP_SHARE),
        seconds_since=_percentiles(since),
        lru_hits=lru_hits(ids, capacities),
    )


def played(trace: Trace) -> Trace:
    """Order rows as sent when answers take no time and thinking does."""
    return _in_order(trace)[0]


def _in_order(trace: Trace) -> tuple[Trace, FloatColumn]:
    """Return the rows as `played` orders them, and when each is sent."""
    if trace.parent is None or trace.think is None:
        return trace, trace.arrival
    wait, parent = np.where(trace.parent >= 0, trace.think, 0.0), trace.parent
    # Each pass doubles how many ancestors a row's wait includes.
    while np.any(parent >= 0):
        wait = wait + np.where(parent >= 0, wait[parent], 0.0)
        parent = np.where(parent >= 0, parent[parent], -1)
    sent = trace.arrival + wait
    order = np.argsort(sent, kind="stable")
    return select(trace, order), sent[order]


def lru_hits(ids: IntColumn, capacities: Iterable[int]) -> dict[int, int]:
    """Count the hits of a plain LRU cache over a stream of ids, by capacity.

    Each id is looked up, moved or put to the recent end, and the oldest goes when there are more than
    the capacity: so a reference hits when fewer than `capacity` other ids came since its last one.
    """
    wanted = list(dict.fromkeys(capacities))
    for capacity in wanted:
        if capacity < 1:
            raise InputError(f"cache capacity must be at least 1 block, got {capacity}")
    if not wanted:
        return {}
    distances = np.sort(stack_distances(ids))
    return {capacity: int(np.searchsorted(distances, capacity)) for capacity in wanted}


def stack_distances(ids: IntColumn) -> IntColumn:
    """Count the other ids since each reference's last one, new ids left out.

    Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems Journal 9 (1970).
    Between a reference i and its predecessor p, the others are the references j with p < j < i and
    predecessor(j) ≤ p; every j ≤ p has predecessor(j) < p, so they are all the earlier j with
    predecessor(j) ≤ predecessor(i), less p + 1.
    """
    previous = previous_references(ids)
    order = np.argsort(previous, kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    again = previous >= 0
    return smaller_before(ranks)[again] - (previous[again] + 1)


def previous_references(ids: IntColumn) -> IntColumn:
    """Return the position at which each id came before, −1 where it is new."""
    order = np.argsort(ids, kind="stable")
    same = ids[order[1:]] == ids[order[:-1]]
    previous = np.full(len(ids), -1, dtype=np.int64)
    previous[order[1:][same]] = order[:-1][same]
    return previous


def smaller_before(ranks: IntColumn) -> IntColumn:
    """Count, for each element of a permutation, the smaller ones to its left.

    A wavelet tree, level by level: elements are kept grouped by their leading bits, in order of position
    within a group; where the next bit is 1, the elements of the group to the left whose bit is 0 are
    smaller, and no other level counts them again. O(n log n), whole columns at a time.
    """
    rank = ranks.astype(np.int64)
    size = len(rank)
    place = np.arange(size)
    count = np.zeros(size, dtype=np.int64)
    for bit in reversed(range(max(size - 1, 0).bit_length())):
        # Ranks are a permutation, so a group starts where its smallest rank says.
        start = (rank >> (bit + 1)) << (bit + 1)
        one = (rank >> bit) & 1 == 1
        zeros = np.concatenate(([0], np.cumsum(~one)))
        zeros_left = zeros[:-1] - zeros[start]
        count[place[one]] += zeros_left[one]
        target = np.where(one, np.arange(size) + (1 << bit) - zeros_left, start + zeros_left)
        rank, place = _scatter(rank, target), _scatter(place, target)
    return count


def _top_hits(ids: IntColumn, share: float) -> int:
    """Count the hits of so large a share of the ids, those with the most."""
    uses = np.unique(ids, return_counts=True)[1]
    top = np.sort(uses)[::-1][: math.ceil(share * len(uses))]
    return int((top - 1).sum())


def _percentiles(seconds: FloatColumn) -> dict[int, float]:
    if not len(seconds):
        return {}
    return dict(zip(PERCENTS, np.percentile(seconds, PERCENTS).tolist(), strict=True))


def _scatter(values: IntColumn, target: IntColumn) -> IntColumn:
    moved = np.empty_like(values)
    moved[target] = values
    return moved


def _covered(trace: Trace, offsets: IntColumn) -> IntColumn:
    """Return the prompt tokens that each reference stands for."""
    blocks = np.diff(offsets)
    row = np.repeat(np.arange(len(blocks)), blocks)
    position = np.arange(len(row)) - offsets[row]
    covered: IntColumn = np.clip(
        trace.prompt_tokens[row] - position * trace.block_tokens, 0, trace.block_tokens
    )
    return covered


def _hit_tokens(covered: IntColumn, ids: IntColumn) -> IntColumn:
    """Return the tokens each hit finds already covered, sorted by id."""
    order = np.argsort(ids, kind="stable")
    new = np.concatenate(([True], ids[order[1:]] != ids[order[:-1]]))[: len(ids)]
    group = np.cumsum(new)
    span = int(covered.max(initial=0)) + 1
    longest = np.maximum.accumulate(group * span + covered[order]) - group * span
    seen: IntColumn = np.minimum(covered[order[1:]], longest[:-1])
    return seen[~new[1:]]
