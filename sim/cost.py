"""What a step costs: aggregate features in, seconds out."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Step(NamedTuple):
    """What one engine step computes, in sums that the engine keeps as it goes.

    Context sums have one entry per span of the model (`Pool.spans`): a windowed span sees at most its
    window. A decode reads its own new token too, so its context is its length after the step.
    """

    tokens: int
    """Tokens computed: prefill chunks and one a decode."""
    context: int
    """Σ over the scheduled sequences of their length after the step."""
    decodes: int
    """Sequences that computed one token on top of a finished prefill."""
    decode_context: tuple[int, ...]
    """Σ KV tokens read by decodes, per span."""
    prefills: int = 0
    """Sequences that computed a chunk of prompt."""
    prefill_tokens: int = 0
    """Σ q of the chunks."""
    prefill_context: tuple[int, ...] = ()
    """Σ KV tokens the chunks read, per span."""
    prefill_area: tuple[int, ...] = ()
    """Σ over the chunks' queries of the KV tokens each attends to, per span."""


class CostModel(Protocol):
    """Price a step; pure, and O(1) in the number of sequences."""

    @property
    def label(self) -> str:
        """One line on where the figures come from, ending in measured, calibrated or assumed."""

    def seconds(self, step: Step) -> float:
        """Return how long the step takes."""
