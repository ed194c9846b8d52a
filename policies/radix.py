"""Prefix sharing to the token: a radix tree over cached tokens, as in SGLang."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kvsim.errors import InputError
from kvsim.placement import Placement
from kvsim.policies.eviction import EVICTIONS, check_eviction, name_with
from kvsim.policies.eviction_future import Future
from kvsim.policies.radix_places import RadixPlaces
from kvsim.policies.radix_text import Text, Texts
from kvsim.policies.radix_tree import Node, Tree
from kvsim.policy import NO_MATCH, Lease, Match, Policy, Pool, Usage, reduced
from kvsim.registry import register
from kvsim.request import Sequence


class Spot(NamedTuple):
    """How far a sequence's text is in the tree."""

    node: Node
    loose: int
    """Tokens of it that nobody holds."""


class Holding:
    """What one sequence holds: the nodes from `leaf` up, and pages of its own beyond."""

    __slots__ = ("leaf", "pages", "text")

    def __init__(self, text: Text, leaf: Node, pages: int) -> None:
        """Start with what was found."""
        self.text = text
        self.leaf = leaf
        self.pages = pages
        """Pages in all, those in the tree included."""


@register
class RadixPolicy(Policy):
    """Prefixes shared to the token in a radix tree, as SGLang's RadixAttention does (arXiv 2312.07104).

    Prompts are put into the tree as they are computed, answers when their request finishes; a request whose prompt goes
    on like one in the tree computes only the rest, from the first token that differs (`page_size` 1) or from the start
    of the page that does. Equal tokens computed twice are kept once. What nobody holds makes room from the ends of the
    leaves, in the order `eviction`: lru, lfu, fifo, length (deepest first) or oracle (used again last; it
    reads the whole trace, and calls the policy `radix-oracle`).

    As in SGLang's RadixCache, except that (1) a leaf loses only as many tokens as are needed, where SGLang drops it
    whole; (2) tokens can be found as soon as they are scheduled, as in vLLM, and not only when the step has
    ended, so that no request is held back for another one in the same step; (3) when memory is short, vLLM's
    scheduler preempts the newest, whose prompt stays in the tree and whose outputs do not; `watermark` and
    `scheduler_reserve_full_isl` are vLLM's admission rules; (4) no slot is set aside for padding. `block_size` only
    turns num_gpu_blocks_override into tokens, (override − 1) · block_size, the same pool as `prefix` gets.
    """

    name = "radix"
    shares_prefixes = True

    def __init__(
        self,
        *,
        page_size: int = 1,
        eviction: str = "lru",
        watermark: float = 0.0,
        scheduler_reserve_full_isl: bool = True,
        block_size: int = 16,
    ) -> None:
        """Refuse an unknown eviction at once, since it is part of the name."""
        check_eviction(eviction)
        self.page_size = page_size
        self.eviction = eviction
        self.watermark = watermark
        self.scheduler_reserve_full_isl = scheduler_reserve_full_isl
        self.block_size = block_size
        self.name = name_with(type(self).name, eviction)

    def reset(self, pool: Pool) -> None:
        """Start with an empty tree in a pool of whole pages."""
        for name in ("page_size", "block_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1 token, got {getattr(self, name)}")
        if not 0 <= self.watermark < 1:
            raise InputError(f"watermark must be in [0, 1), got {self.watermark}")
        blocks = pool.num_gpu_blocks_override
        self._pages = (pool.tokens if blocks is None else (blocks - 1) * self.block_size) // self.page_size
        if self._pages < 1:
            raise InputError(
                f"the pool must hold at least a page of {self.page_size} tokens, got {pool.tokens}"
            )
        self.spans, self.attention = reduced(pool.spans), pool.spans
        self._slots = self.page_size * self.slots_per_token
        self.capacity = self._pages * self._slots
        self._reserve = int(self.watermark * self._pages)
        self.refusal_holds = self.scheduler_reserve_full_isl
        self._pool = pool
        self._texts = Texts(pool.workload)
        self._tree = Tree(self.page_size, EVICTIONS[self.eviction])
        self._future: Future | None = None
        if self.eviction == "oracle" and self._texts.are_shared and pool.workload is not None:
            self._future = Future(pool.workload)
            self._tree.foresee = self._foresee
        self._own = self._holders = self._tick = 0
        self._places = RadixPlaces(self.page_size, self._pages, self.spans)
        self._count_spare()

    def refuses(self, tokens: int) -> str | None:
        """Compare what one sequence needs with all pages."""
        needed = self._pages_of(tokens)
        if needed > self._pages:
            return f"{tokens} tokens need {needed} pages of {self.page_size}, the pool has {self._pages}"
        return None

    def lookup(self, sequence: Sequence) -> Match:
        """Find the longest prefix in the tree, short of the last token."""
        node, at = self._tree.match(self._text(sequence), sequence.tokens - 1)
        if not at:
            return NO_MATCH
        return Match(at, 0, Spot(node, self._tree.loose(node, at)))

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Hold what was found and take pages for the chunk, if the whole sequence would fit."""
        tree, spot, upto = self._tree, match.detail, match.tokens + tokens
        found = self._pages_of(match.tokens)
        loose = self._pages_of(spot.loose) if isinstance(spot, Spot) else 0
        available = self.free_pages - loose - (self._reserve if self._holders else 0)
        needed = self._pages_of(upto) - found
        whole = self._pages_of(sequence.tokens) - found
        if needed > available or (self.scheduler_reserve_full_isl and whole > available):
            return None
        self._tick += 1
        leaf = tree.cut(spot.node, match.tokens) if isinstance(spot, Spot) else tree.root
        tree.touch(leaf, self._tick, hits=1)
        tree.lock(leaf, tree.root)
        if self._future is not None:
            self._future.admit(sequence.index)
        sequence.memory = holding = Holding(self._text(sequence), leaf, found)
        self._holders += 1
        return self._extend(sequence, holding, upto, enters=True)

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Take the pages that are missing, or none; what is computed of a prompt enters the tree."""
        holding = self._holding(sequence)
        if self._pages_of(tokens) - holding.pages > self.free_pages:
            return None
        is_decode = tokens - sequence.computed == 1 and sequence.computed >= sequence.prompt_tokens
        return self._extend(sequence, holding, tokens, enters=not is_decode)

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Let go of the nodes and free the sequence's own pages; a finished one's answer enters the tree."""
        holding = self._holding(sequence)
        if finished:
            self._enter(holding, min(sequence.computed, sequence.tokens))
            self._texts.forget(sequence.index)
        elif self._future is not None:
            self._future.put_back(sequence.index)
        self._own -= holding.pages - holding.leaf.high // self.page_size
        self._tree.unlock(holding.leaf)
        sequence.memory = None
        self._holders -= 1
        self._count_spare()

    def usage(self, waiting: Sequence | None) -> Usage:
        """Count whole pages; a page is never too small for the next request."""
        del waiting
        tree, scale = self._tree, self.slots_per_token
        held = tree.locked * scale + self._own * self._slots
        return Usage(held, tree.extra_locks * scale, (tree.tokens - tree.locked) * scale)

    def placements(self, running: Iterable[Sequence], waiting: Sequence | None) -> Placement:
        """Lay the tree and what sequences have besides out; a page keeps the place it is first seen at."""
        del waiting
        holdings = [(sequence.index, self._holding(sequence)) for sequence in running]
        return self._places.placement(self._tree, [(row, each.leaf, each.pages) for row, each in holdings])

    def footprint(self, tokens: int) -> int:
        """Count whole pages."""
        return self._pages_of(tokens) * self._slots

    def counted(self) -> Policy | None:
        """Return a twin that leaves it to the engine to count decodes' pages."""
        if type(self) is not RadixPolicy:
            return None
        twin = self.clone()
        twin.counted_block = self.page_size
        twin.reset(self._pool)
        twin.never_refused = twin.capacity // twin.slots_per_token
        return twin

    def take_blocks(self, blocks: int) -> None:
        """Give decoding sequences so many pages."""
        self._take(blocks)

    @property
    def blocks_in_use(self) -> int:
        """Pages held by sequences."""
        return self._tree.locked // self.page_size + self._own

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds, cached or not."""
        return self._pages - self.blocks_in_use

    def _extend(self, sequence: Sequence, holding: Holding, tokens: int, *, enters: bool) -> Lease:
        pages = self._pages_of(tokens)
        self._take(max(0, pages - holding.pages))
        holding.pages = max(pages, holding.pages)
        if enters:
            self._enter(holding, min(tokens, sequence.tokens))
        return Lease(holding.pages * self.page_size)

    def _enter(self, holding: Holding, tokens: int) -> None:
        """Put whole pages into the tree; what is there already is freed."""
        tree, leaf = self._tree, holding.leaf
        upto = tokens - tokens % self.page_size
        if upto > leaf.high:
            self._tick += 1
            self._own -= (upto - leaf.high) // self.page_size
            holding.leaf = tree.insert(leaf, holding.text, upto, self._tick)
            tree.lock(holding.leaf, leaf)
            tree.touch(holding.leaf, self._tick)
            self._count_spare()

    def _take(self, pages: int) -> None:
        short = pages - (self._pages - self._tree.tokens // self.page_size - self._own)
        if short > 0:
            self._tree.evict(short * self.page_size)
        self._own += pages
        self._count_spare()

    def _count_spare(self) -> None:
        if self.counted_block:
            self.spare_blocks = self.free_pages

    def _holding(self, sequence: Sequence) -> Holding:
        holding = sequence.memory
        assert isinstance(holding, Holding), f"{sequence} holds no memory"
        if self.counted_block:
            holding.pages = self._pages_of(sequence.computed)
        return holding

    def _foresee(self, node: Node) -> None:
        assert self._future is not None
        node.next_use, floor = self._future.next_use(node.text.row, node.high)
        floor += -floor % self.page_size
        node.floor = min(max(node.low, floor), node.high - self.page_size)

    def _text(self, sequence: Sequence) -> Text:
        return self._texts.of(sequence.index, sequence.prompt_tokens)

    def _pages_of(self, tokens: int) -> int:
        return -(-tokens // self.page_size)
