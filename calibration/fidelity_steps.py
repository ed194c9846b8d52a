"""The steps that a simulated scheduler produced, with what a device needs to execute them. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from kvsim.cost import Step

Kind = Literal["decode", "prompt", "chunk", "prefix hit", "mixed"]
KINDS: tuple[Kind, ...] = ("decode", "prompt", "chunk", "prefix hit", "mixed")
"""What a step computes.

`decode`: single tokens only. `mixed`: decodes and prompts together. Else prompts only: whole ones (`prompt`), at least
one whose first tokens were found in the cache (`prefix hit`), or at least one behind an earlier chunk (`chunk`).
"""


class Scheduled(NamedTuple):
    """One sequence in a step."""

    row: int
    """Row of the trace."""
    tokens: int
    """Tokens computed in this step."""
    length: int
    """Tokens with KV after it."""
    is_decode: bool
    tables: tuple[tuple[int, ...], ...]
    """Block table per layer group, as far as the sequence reaches; the slot's number for contiguous memory."""


class ScheduledStep(NamedTuple):
    """One step as the simulator scheduled it."""

    number: int
    """Place among the steps of its run."""
    kind: Kind
    sequences: tuple[Scheduled, ...]
    """Decodes first, else in scheduling order."""
    work: Step
    """The sums that it is priced by."""

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return sum(each.tokens for each in self.sequences)

    @property
    def decodes(self) -> int:
        """Sequences that decode; they stand first."""
        return sum(each.is_decode for each in self.sequences)


def kind_of(sequences: Sequence[Scheduled], hits: int) -> Kind:
    """Name what a step computes; `hits` of its sequences were admitted with cached tokens."""
    decodes = sum(each.is_decode for each in sequences)
    if decodes:
        return "decode" if decodes == len(sequences) else "mixed"
    if hits:
        return "prefix hit"
    return "prompt" if all(each.tokens == each.length for each in sequences) else "chunk"


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most so many of the numbers, evenly spaced from the first to the last."""
    if len(numbers) <= most:
        return list(numbers)
    if most == 1:
        return [numbers[len(numbers) // 2]]
    return [numbers[round(place * (len(numbers) - 1) / (most - 1))] for place in range(most)]
