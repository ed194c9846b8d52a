"""What a step costs: aggregate features in, seconds out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kvsim.errors import InputError


class Step(NamedTuple):
    """What one engine step computes, in sums that the engine keeps as it goes.

    Context sums have one entry per span that the policy attends to (`Policy.attention`): a windowed span sees
    at most its window. A decode reads its own new token too, so its context is its length after the step.
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
    decode_shared: int = 0
    """Σ over decodes of the KV tokens they read, windows left aside, that another running decode reads from the
    same memory; the first reader of each token is not counted. Where prompts are computed in the same step it is what
    is left when all of their cached tokens are taken off, which is at most that."""
    decode_longest: int = 0
    """KV tokens of the longest decode, windows left aside; kept for a cost model that `reads_longest`, else 0."""


class Line(NamedTuple):
    """What steps of a fixed number of decodes cost: `fixed` + `rate` · Σ context, in seconds."""

    fixed: float
    rate: float
    until: int
    """Σ context, in tokens, up to which that holds."""
    since: int = 0
    """Σ context from which on it holds."""
    is_measured: bool = True
    """Whether such steps lie within what was measured; True where nothing was."""


class CostModel(Protocol):
    """Price a step; pure, and O(1) in the number of sequences.

    A model may also have `decode_line(decodes, context) -> Line | None`: the line that prices steps without
    prefills, of so many decodes that attend to everything, from this Σ context on, equal to `seconds` to the last
    bit. Runs are then a good deal faster. One that counts what it prices has `count_steps(steps, is_measured, shares)`
    for steps priced by a line; one that takes something off for shared reads has `discounts_sharing`, and is then asked
    for `seconds` where sequences share. One whose `reads_longest` is true gets `Step.decode_longest`, and its
    `decode_line` that as a third argument; the line then holds while all of these decodes go on.
    """

    @property
    def label(self) -> str:
        """Where the figures come from, ending in measured, calibrated or assumed."""

    def seconds(self, step: Step) -> float:
        """Return how long the step takes."""


class LinearCost:
    """A + B · scheduled tokens + C · Σ context, in seconds."""

    def __init__(self, a: float, b: float, c: float) -> None:
        """Take seconds a step, a token, and a token of context."""
        for name, value in (("A", a), ("B", b), ("C", c)):
            if not 0 <= value < float("inf"):
                raise InputError(f"linear:A,B,C: {name} must be seconds ≥ 0, got {value}")
        if a + b == 0:
            raise InputError("linear:A,B,C: A and B must not both be 0, or time would stand still")
        self.a, self.b, self.c = a, b, c

    @property
    def label(self) -> str:
        """Name the three constants."""
        return f"linear:{self.a:g},{self.b:g},{self.c:g} (assumed)"

    def seconds(self, step: Step) -> float:
        """Evaluate the line."""
        return self.a + self.b * step.tokens + self.c * step.context

    def decode_line(self, decodes: int, context: int) -> Line:
        """Return the line for so many decodes."""
        del context
        return Line(self.a + self.b * decodes, self.c, 1 << 62)


def parse_linear(text: str) -> LinearCost:
    """Read `linear:A,B,C`."""
    try:
        a, b, c = (float(part) for part in text.removeprefix("linear:").split(","))
    except ValueError:
        raise InputError(f"--cost linear:A,B,C needs three numbers of seconds, got {text!r}") from None
    return LinearCost(a, b, c)
