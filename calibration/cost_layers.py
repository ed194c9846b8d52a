"""Attention of a model's layers of one span: which fits price it, and what they answer."""

from __future__ import annotations

from typing import NamedTuple

from kvsim.calibration.attention_choice import choose, choose_dense, choose_discount
from kvsim.calibration.attention_kinds import Attention, Fitted, Kind, saving
from kvsim.calibration.curve import Curve
from kvsim.calibration.features import Chunks, Decodes
from kvsim.calibration.fit_attention import DecodeFit, MixedFit, PrefillFit


class DecodeCurve(NamedTuple):
    """Decode attention of one span for a fixed number of sequences."""

    seconds: Curve
    """Of all its layers, over Σ KV tokens."""
    least: float
    most: float
    """Σ KV tokens between which points were measured."""
    tail: float
    """Seconds that a token takes which the longest has beyond the mean."""

    def late(self, decodes: Decodes) -> float:
        """Return how long the longest goes on after the others."""
        return self.tail * decodes.lack / decodes.sequences if self.tail else 0.0

    def saved(self, context: int, shared: int, discount: float) -> float:
        """Return what is saved where decodes read `shared` of the tokens from pages that another one reads too."""
        alone, unique = self.seconds.at(context), self.seconds.at(max(0, context - shared))
        return alone - saving(alone, unique, discount * shared)


class Layers(NamedTuple):
    """Layers of one attention span and what prices them."""

    layers: float
    decode: Fitted
    prefill: Fitted
    mixed: Fitted | None
    dense: Fitted | None
    """Of steps whose chunks are all whole prompts, where another kernel does those."""
    discount: float | None
    """Seconds that all of them save a token which several decodes read from the same pages; None if not timed."""

    @property
    def reads_longest(self) -> bool:
        """Tell whether it matters how long the longest decode is."""
        fits = (self.decode.fit, *([] if self.mixed is None else [self.mixed.fit]))
        return any(each.affine.coefficients[each.terms.index("longest")] for each in fits)

    def line(self, sequences: int, padded: int) -> DecodeCurve:
        """Return what decodes of so many sequences take, launched as `padded` ones."""
        fit = self.decode.fit
        assert isinstance(fit, DecodeFit)
        tail = fit.tail(padded)
        curve = fit.line(sequences, tail)
        scale = self.layers * self.decode.factor
        least, most = fit.affine.hull.reach(sequences)
        scaled = Curve(curve.nodes, tuple(scale * each for each in curve.seconds), scale * curve.slope)
        return DecodeCurve(scaled, least, most, scale * tail)

    def chunks(self, chunks: Chunks) -> tuple[float, bool]:
        """Return the seconds of chunks, and whether such were timed.

        A whole prompt takes no longer than the kernel that can read pages, so one cached token more never saves time.
        """
        fit = self.prefill.fit
        assert isinstance(fit, PrefillFit)
        seconds, was_timed = self.layers * self.prefill.factor * fit.at(chunks), fit.was_timed(chunks)
        if self.dense is None or chunks.context > chunks.tokens:
            return seconds, was_timed
        whole = self.dense.fit
        assert isinstance(whole, PrefillFit)
        return min(seconds, self.layers * self.dense.factor * whole.at(chunks)), whole.was_timed(chunks)

    def fused(self, chunks: Chunks, decodes: Decodes) -> float | None:
        """Return the seconds of one launch for both; None where such was not timed."""
        if self.mixed is None:
            return None
        assert isinstance(self.mixed.fit, MixedFit)
        return self.layers * self.mixed.factor * self.mixed.fit.at(chunks, decodes)


def choose_layers(attention: Attention, layers: float, wanted: Kind) -> tuple[Layers, list[str]]:
    """Return what prices so many layers, and what is not exactly as wanted, a sentence each."""
    said: list[str] = []

    def chosen(op: str) -> Fitted:
        fitted, notes = choose(attention, wanted._replace(op=op))
        said.extend(notes)
        return fitted

    is_fused = any(kind.op == "attn_mixed" and kind[3:] == wanted[3:] for kind in attention)
    discount = choose_discount(attention, wanted)
    found = Layers(
        layers,
        chosen("attn_decode"),
        chosen("attn_prefill"),
        chosen("attn_mixed") if is_fused else None,
        choose_dense(attention, wanted),
        None if discount is None else layers * discount,
    )
    return found, said
