"""The tokens of a request as runs of consecutive numbers: equal numbers are equal tokens."""

from __future__ import annotations

from bisect import bisect_right

from kvsim.policies.contents import OUTPUT, PRIVATE_PROMPT, REQUEST_STRIDE
from kvsim.request import Workload

APART = 1 << 80
"""Added to what is private where ids stand for several tokens, so that no id can reach it."""

Page = int | tuple[tuple[int, int], ...]
"""What tells one page from another: its token, or the runs in it."""


class Text:
    """A row's tokens: the prompt by its ids, what they do not cover, then outputs without end.

    Tokens are numbered as in `contents`, so that a prompt which repeats another row's answer has its numbers. Runs that
    go on from one another are one, so equal tokens are equal runs.
    """

    __slots__ = ("_ends", "_starts", "row")

    def __init__(self, row: int, pieces: list[tuple[int, int]]) -> None:
        """Join pieces (first number, tokens) that follow one another."""
        self.row = row
        starts: list[int] = []
        ends: list[int] = []
        at, expected = 0, None
        for start, tokens in pieces:
            if start == expected:
                ends[-1] += tokens
            else:
                starts.append(start)
                ends.append(at + tokens)
            at, expected = ends[-1], start + tokens
        self._starts, self._ends = starts, ends

    def page(self, at: int, size: int) -> Page:
        """Return what names the page that starts `at` tokens from the beginning."""
        place = bisect_right(self._ends, at)
        if size == 1:
            return self._number(place, at)
        runs, stop = [], at + size
        while at < stop:
            end = min(self._ends[place], stop)
            runs.append((self._number(place, at), end - at))
            at, place = end, place + 1
        return tuple(runs)

    def alike(self, other: Text, low: int, high: int) -> int:
        """Return up to where, at most `high`, both have the same tokens from `low` on."""
        if self is other:
            return high
        ends, others = self._ends, other._ends
        mine, theirs = bisect_right(ends, low), bisect_right(others, low)
        while low < high and self._number(mine, low) == other._number(theirs, low):
            low = min(ends[mine], others[theirs], high)
            mine += ends[mine] == low
            theirs += others[theirs] == low
        return low

    def _number(self, place: int, at: int) -> int:
        return self._starts[place] + at - (self._ends[place - 1] if place else 0)


class Texts:
    """The texts of a workload's rows, made when first asked for."""

    def __init__(self, workload: Workload | None) -> None:
        """Read nothing yet."""
        self._workload = workload
        ids = None if workload is None else workload.block_ids
        self.are_shared = ids is not None and len(ids) > 0
        """Whether any two rows can have tokens in common."""
        self._known: dict[int, Text] = {}

    def of(self, row: int, prompt_tokens: int) -> Text:
        """Return a row's text."""
        text = self._known.get(row)
        if text is None:
            text = self._known[row] = self._read(row, prompt_tokens)
        return text

    def forget(self, row: int) -> None:
        """Drop a row that will not be asked for again."""
        self._known.pop(row, None)

    def _read(self, row: int, prompt_tokens: int) -> Text:
        workload = self._workload
        pieces: list[tuple[int, int]] = []
        covered, apart = 0, 0
        if self.are_shared and workload is not None:
            assert workload.block_ids is not None
            assert workload.block_offsets is not None
            start, end = int(workload.block_offsets[row]), int(workload.block_offsets[row + 1])
            size = workload.block_tokens
            apart = 0 if size == 1 else APART
            covered = min((end - start) * size, prompt_tokens)
            ids = workload.block_ids[start : start - (-covered // size)].tolist()
            pieces = [(number * size, size) for number in ids]
            if covered % size:
                pieces[-1] = (pieces[-1][0], covered % size)
        if covered < prompt_tokens:
            first = apart + PRIVATE_PROMPT + row * REQUEST_STRIDE + covered
            pieces.append((first, prompt_tokens - covered))
        pieces.append((apart + OUTPUT + row * REQUEST_STRIDE, REQUEST_STRIDE))
        return Text(row, pieces)
