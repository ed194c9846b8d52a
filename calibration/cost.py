"""The step cost that a profile gives: kernels timed on one GPU, summed over a model's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvsim.calibration.attention_kinds import SIXTEEN_BITS, Fitted, Kind, choose
from kvsim.calibration.curve import Curve
from kvsim.calibration.features import Chunks, Decodes
from kvsim.calibration.fit_attention import DecodeFit, MixedFit, PrefillFit
from kvsim.calibration.imported import STATEMENT
from kvsim.calibration.profile import Profile
from kvsim.calibration.step_price import StepPrice
from kvsim.cost import Step
from kvsim.policy import Span

CAPTURED = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))
"""Token counts that vLLM captures as CUDA graphs; steps up to the last are padded to the next one."""


class _Line(NamedTuple):
    """Decode attention of one span for a fixed number of sequences."""

    seconds: Curve
    """Of all its layers, over Σ KV tokens."""
    least: float
    most: float
    """Σ KV tokens between which points were measured."""


class _Share(NamedTuple):
    """What a step costs by its tokens, or by its sequences: attention is on top."""

    kernels: float
    host: float
    """Host time; of tokens, what launching all kernels of an uncaptured step takes."""
    is_measured: bool


class _Layers(NamedTuple):
    """Layers of one attention span and what prices them."""

    layers: float
    decode: Fitted
    prefill: Fitted
    mixed: Fitted | None


class ProfileCost:
    """Price steps by a profile.

        seconds = max(kernels, launches) + host, or the largest of the three if scheduling overlaps
        kernels = GEMMs and elementwise kernels at padded tokens + LM head and sampler at sequences
                  + Σ spans layers · attention

    Attention of a step with chunks and decodes is the fused kernel's where the profile has it, at least as long as
    either part alone; else the sum of two calls. A step never gets faster by one more decode, a longer context, or a
    longer or deeper chunk. Pure but for two counters.
    """

    def __init__(
        self,
        profile: Profile,
        spans: Sequence[Span],
        *,
        layout: str = "paged",
        page: int | None = None,
        kv_dtype: str = "bf16",
        overlaps_host: bool = False,
        pads: bool = True,
    ) -> None:
        """`spans` are layers by window, `layout` and `page` how the policy keeps KV.

        `pads` says whether steps run as captured graphs, padded to CAPTURED.
        """
        self.profile = profile
        self.steps = 0
        """Steps priced so far."""
        self.extrapolated_steps = 0
        """Of those, steps with a size outside what was measured."""
        self.notes: list[str] = list(profile.warnings)
        """What is priced by something near it, a sentence each."""
        dtype = SIXTEEN_BITS.get(kv_dtype, kv_dtype)
        scale = profile.model.layers / sum(span.weight for span in spans)
        self._spans = [
            self._choose(span.weight * scale, Kind("", layout, page, span.window, dtype)) for span in spans
        ]
        self._discounts = [span.layers * span.decode.discount for span in self._spans]
        self._price = StepPrice(profile.fits, profile.model)
        self._host = (float(str(profile.host.get("step", 0))), float(str(profile.host.get("request", 0))))
        self._overlaps_host, self._pads = overlaps_host, pads
        self._most = (self._price.most_tokens(), self._price.most_rows())
        self._lines: dict[int, list[_Line]] = {}
        self._by_tokens: dict[int, _Share] = {}
        self._by_rows: dict[int, _Share] = {}

    @property
    def label(self) -> str:
        """Name GPU and model, the error of a decode step, and where the points are from."""
        error = self.profile.errors.get("step decode")
        known = (
            "of unknown error"
            if error is None
            else f"decode steps off by {error.mean:.1%} on held-out points"
        )
        parts = [known, *([STATEMENT] if self.profile.is_imported else [])]
        if not self.profile.representative:
            parts.append("not representative")
        return f"profile:{self.profile.title} ({'; '.join(parts)}; calibrated)"

    @property
    def hull_share(self) -> float:
        """Share of the priced steps that lie within what was measured; 1 before the first."""
        return 1.0 - self.extrapolated_steps / self.steps if self.steps else 1.0

    def seconds(self, step: Step) -> float:
        """Return how long the step takes."""
        rows = step.decodes + step.prefills
        dense = self._by_tokens.get(step.tokens) or self._price_tokens(step.tokens)
        head = self._by_rows.get(rows) or self._price_rows(rows)
        kernels, inside = dense.kernels + head.kernels, dense.is_measured and head.is_measured
        if not step.prefills:
            for line, context in zip(self._decode_lines(rows), step.decode_context, strict=True):
                kernels += line.seconds.at(context)
                inside = inside and line.least <= context <= line.most
        else:
            attention, within = self._with_chunks(step)
            kernels += attention
            inside = inside and within
        if any(self._discounts):
            # Steps need not say what is shared; nothing is then taken off.
            shared = getattr(step, "decode_shared", ())
            kernels -= sum(each * tokens for each, tokens in zip(self._discounts, shared, strict=False))
        self.steps += 1
        self.extrapolated_steps += not inside
        kernels = max(kernels, dense.host)
        return max(kernels, head.host) if self._overlaps_host else kernels + head.host

    def _with_chunks(self, step: Step) -> tuple[float, bool]:
        """Return the attention of a step that prefills, and whether all of it was measured."""
        total, inside = 0.0, True
        lines = self._decode_lines(step.decodes) if step.decodes else None
        for number, span in enumerate(self._spans):
            chunks = Chunks(
                step.prefills, step.prefill_tokens, step.prefill_context[number], step.prefill_area[number]
            )
            seconds = span.layers * _prefill(span.prefill, chunks)
            inside = inside and _was_timed(span.prefill, chunks)
            if lines is not None:
                context = step.decode_context[number]
                alone = lines[number].seconds.at(context)
                inside = inside and lines[number].least <= context <= lines[number].most
                fused = (
                    None if span.mixed is None else _mixed(span.mixed, chunks, Decodes(step.decodes, context))
                )
                seconds = seconds + alone if fused is None else max(seconds, alone, span.layers * fused)
            total += seconds
        return total, inside

    def _decode_lines(self, sequences: int) -> list[_Line]:
        lines = self._lines.get(sequences)
        if lines is None:
            lines = self._lines[sequences] = [_line(span, sequences) for span in self._spans]
        return lines

    def _price_tokens(self, tokens: int) -> _Share:
        captured = self._pads and tokens <= CAPTURED[-1]
        padded = next(size for size in CAPTURED if size >= tokens) if captured else tokens
        kernels = self._price.by_tokens(padded, "graph" if captured else "eager")
        launch = self.profile.fits.launch.get("kernel")
        launches = 0.0 if captured or launch is None else self._price.kernels * launch.at(1)
        found = self._by_tokens[tokens] = _Share(kernels, launches, padded <= self._most[0])
        return found

    def _price_rows(self, rows: int) -> _Share:
        host = self._host[0] + self._host[1] * rows
        timed = self.profile.fits.launch.get("host")
        host += timed.at(rows) if timed else 0.0
        found = self._by_rows[rows] = _Share(self._price.by_rows(rows), host, rows <= self._most[1])
        return found

    def _choose(self, layers: float, wanted: Kind) -> _Layers:
        attention = self.profile.fits.attention
        found: list[Fitted] = []
        for op in ("attn_decode", "attn_prefill", "attn_mixed"):
            fused = op == "attn_mixed"
            if fused and not any(kind.op == op and kind[3:] == wanted[3:] for kind in attention):
                return _Layers(layers, found[0], found[1], None)
            fitted, notes = choose(attention, wanted._replace(op=op))
            self.notes += [note for note in notes if note not in self.notes]
            found.append(fitted)
        return _Layers(layers, *found)


def _line(span: _Layers, sequences: int) -> _Line:
    fit = span.decode.fit
    assert isinstance(fit, DecodeFit)
    curve = fit.line(sequences)
    scale = span.layers * span.decode.factor
    least, most = fit.affine.hull.reach(sequences)
    scaled = Curve(curve.nodes, tuple(scale * each for each in curve.seconds), scale * curve.slope)
    return _Line(scaled, least, most)


def _prefill(fitted: Fitted, chunks: Chunks) -> float:
    assert isinstance(fitted.fit, PrefillFit)
    return fitted.factor * fitted.fit.at(chunks)


def _was_timed(fitted: Fitted, chunks: Chunks) -> bool:
    assert isinstance(fitted.fit, PrefillFit)
    return fitted.fit.was_timed(chunks)


def _mixed(fitted: Fitted, chunks: Chunks, decodes: Decodes) -> float:
    assert isinstance(fitted.fit, MixedFit)
    return fitted.factor * fitted.fit.at(chunks, decodes)
