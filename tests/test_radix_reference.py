"""The radix tree against a cache of single pages that is written down as simply as can be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import trace

from kvsim.policies.radix import RadixPolicy
from kvsim.policy import Pool, Usage
from kvsim.request import Sequence
from kvsim.traces import Trace

Prefix = tuple[int, ...]


class Page:
    """One page of one prefix."""

    def __init__(self, made: int) -> None:
        self.made = self.used = made
        self.uses = 1
        self.holders = 0


class PageCache:
    """Every page of every prefix by itself; a page goes only after all that go on from it."""

    def __init__(self, pages: int, page_size: int, eviction: str) -> None:
        self.room = pages
        self.size = page_size
        self.eviction = eviction
        self.pages: dict[Prefix, Page] = {}
        self.tick = 0

    def prefixes(self, tokens: Prefix) -> list[Prefix]:
        return [tokens[:end] for end in range(self.size, len(tokens) + 1, self.size)]

    def find(self, tokens: Prefix) -> int:
        found = 0
        for prefix in self.prefixes(tokens[:-1]):
            if prefix not in self.pages:
                break
            found += 1
        return found

    def admit(self, tokens: Prefix, own: int) -> bool:
        """Hold what is found and make the rest, if it fits beside `own` pages that others hold for themselves."""
        held = self.prefixes(tokens)[: self.find(tokens)]
        needed = -(-len(tokens) // self.size) - len(held)
        loose = [prefix for prefix, page in self.pages.items() if not page.holders and prefix not in held]
        if needed > self.room - len(self.pages) - own + len(loose):
            return False
        self.tick += 1
        for prefix in held:
            page = self.pages[prefix]
            page.used, page.uses, page.holders = self.tick, page.uses + 1, page.holders + 1
        self.evict(needed - (self.room - len(self.pages) - own))
        self.tick += 1
        for prefix in self.prefixes(tokens):
            is_there = prefix in self.pages
            page = self.pages.setdefault(prefix, Page(self.tick))
            page.used = self.tick
            if prefix not in held:
                page.uses += is_there
                page.holders += 1
        return True

    def evict(self, pages: int) -> None:
        for _ in range(pages):
            parents = {prefix[: -self.size] for prefix in self.pages}
            loose = [
                prefix for prefix, page in self.pages.items() if not page.holders and prefix not in parents
            ]
            del self.pages[min(loose, key=self.rank)]

    def rank(self, prefix: Prefix) -> tuple[int, ...]:
        page = self.pages[prefix]
        ranks = {"lru": (page.used,), "lfu": (page.uses, page.used), "fifo": (page.made,)}
        return ranks[self.eviction]

    def release(self, tokens: Prefix) -> None:
        for prefix in self.prefixes(tokens):
            self.pages[prefix].holders -= 1


class Case(NamedTuple):
    work: Trace
    page_size: int
    pages: int
    turns: list[tuple[int, int]]
    """(row to admit, place among the running of the one to release after it)."""


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw prompts over three token numbers, so that they part and meet."""
    prompts = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8))
    work = trace(*((0, len(prompt), 1) for prompt in prompts), ids=prompts)
    page_size = draw(st.sampled_from([1, 2, 3]))
    pages = draw(st.integers(9 // page_size + 1, 20))
    turn = st.tuples(st.integers(0, len(prompts) - 1), st.integers(0, 3))
    return Case(work, page_size, pages, draw(st.lists(turn, max_size=25)))


def check(case: Case, eviction: str) -> None:
    """Make the same admissions and releases in both, and compare hits and slots."""
    work, size, pages, turns = case
    assert work.block_ids is not None
    policy = RadixPolicy(page_size=size, eviction=eviction)
    policy.reset(Pool.of_tokens(pages * size, workload=work))
    cache = PageCache(pages, size, eviction)
    parts = np.split(work.block_ids, np.cumsum(work.prompt_tokens)[:-1])
    running: list[tuple[Sequence, Prefix]] = []
    for row, leaver in turns:
        tokens = tuple(parts[row].tolist())
        sequence = Sequence(row, 0.0, len(tokens))
        match = policy.lookup(sequence)
        assert match.tokens == cache.find(tokens) * size
        lease = policy.admit(sequence, match, len(tokens) - match.tokens)
        own = sum(len(each) % size > 0 for _, each in running)
        assert (lease is not None) == cache.admit(tokens, own)
        if lease is not None:
            sequence.computed = len(tokens)
            running.append((sequence, tokens))
        if leaver < len(running):
            gone, text = running.pop(leaver)
            policy.release(gone, finished=False)
            cache.release(text)
        check_usage(policy.usage(None), cache, [text for _, text in running])


def check_usage(usage: Usage, cache: PageCache, running: list[Prefix]) -> None:
    own = sum(len(text) % cache.size > 0 for text in running)
    held = [page.holders for page in cache.pages.values() if page.holders]

    assert usage.held == (len(held) + own) * cache.size
    assert usage.shared == (sum(held) - len(held)) * cache.size
    assert usage.reusable == (len(cache.pages) - len(held)) * cache.size


@pytest.mark.parametrize("eviction", ["lru", "lfu", "fifo"])
@settings(max_examples=150)
@given(case=cases())
def test_tree_finds_and_keeps_what_single_pages_would(eviction: str, case: Case) -> None:
    check(case, eviction)


def test_the_reference_evicts_the_deepest_page_of_the_oldest_prefix() -> None:
    cache = PageCache(4, 1, "lru")
    for tokens in ((1, 2), (1, 3), (4,)):
        cache.admit(tokens, 0)
        cache.release(tokens)

    cache.evict(2)

    assert sorted(cache.pages) == [(1,), (4,)]
