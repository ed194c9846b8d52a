"""What the tokens of a request are, and the chain of names of its pieces.

Tokens are kept as ranges of consecutive numbers, since most are consecutive. A list of longest ranges says
exactly which tokens there are, so two pieces are equal if and only if their ranges are.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
"""A trace row: JSON, so its values are of any type."""
Range = tuple[int, int]
"""First token, count."""

PRIVATE_PROMPT = 2**40
OUTPUT = 2**50
TOKENS_PER_ROW = 2**22


def prompt_length(row: Row) -> int:
    """Return the prompt's length: given, or that of its token ids."""
    if "prompt_token_ids" in row:
        return len(row["prompt_token_ids"])
    return int(row["prompt_len"])


def prompt_ranges(index: int, row: Row, hash_block_tokens: int) -> list[Range]:
    """Return the prompt's tokens: what the ids stand for, then tokens private to the row.

    Id h stands for h·hash_block_tokens + 0, 1, …; position p of row i's private rest is
    2⁴⁰ + i·2²² + p. The last id is cut where the prompt ends.
    """
    if "prompt_token_ids" in row:
        return [(token, 1) for token in row["prompt_token_ids"]]
    length = prompt_length(row)
    ranges: list[Range] = []
    covered = 0
    for name in row.get("hash_ids") or []:
        count = min(hash_block_tokens, length - covered)
        ranges.append((name * hash_block_tokens, count))
        covered += count
    ranges.append((PRIVATE_PROMPT + index * TOKENS_PER_ROW + covered, length - covered))
    return ranges


def output_ranges(index: int, row: Row) -> list[Range]:
    """Return the outputs: those the row gives, then 2⁵⁰ + i·2²² + k for output k of row i."""
    given = row.get("output_token_ids") or []
    rest = int(row["output_len"]) - len(given)
    return [(token, 1) for token in given] + [(OUTPUT + index * TOKENS_PER_ROW + len(given), rest)]


def longest_ranges(ranges: list[Range]) -> list[Range]:
    """Join ranges that go on from each other, and drop empty ones."""
    joined: list[Range] = []
    for first, count in ranges:
        if count <= 0:
            continue
        if joined and joined[-1][0] + joined[-1][1] == first:
            joined[-1] = (joined[-1][0], joined[-1][1] + count)
        else:
            joined.append((first, count))
    return joined


def pieces(ranges: list[Range], size: int) -> list[tuple[Range, ...]]:
    """Cut the tokens into pieces of `size`; what is left over at the end is no piece."""
    result: list[tuple[Range, ...]] = []
    piece: list[Range] = []
    missing = size
    for first, count in ranges:
        while count:
            part = min(count, missing)
            piece.append((first, part))
            first, count, missing = first + part, count - part, missing - part
            if missing == 0:
                result.append(tuple(piece))
                piece, missing = [], size
    return result


class Names:
    """C1: a number for each (parent's number, piece), the same for the same content.

    Numbers in order of first use, where vLLM takes a hash: this one has no collisions.
    """

    def __init__(self) -> None:
        """Start with no names."""
        self.numbers: dict[tuple[int, tuple[Range, ...]], int] = {}

    def chain(self, index: int, row: Row, hash_block_tokens: int, size: int) -> list[int]:
        """Return the names of all pieces that the row's prompt and outputs will ever fill."""
        ranges = prompt_ranges(index, row, hash_block_tokens) + output_ranges(index, row)
        chain: list[int] = []
        parent = -1
        for piece in pieces(longest_ranges(ranges), size):
            parent = self.numbers.setdefault((parent, piece), len(self.numbers))
            chain.append(parent)
        return chain
