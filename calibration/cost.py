"""The step cost that a profile gives: kernels timed on one GPU, summed over a model's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvsim.calibration.attention_kinds import SIXTEEN_BITS, Kind
from kvsim.calibration.cost_layers import DecodeCurve, Layers, choose_layers
from kvsim.calibration.curve import at_least, within
from kvsim.calibration.features import Chunks, Decodes
from kvsim.calibration.imported import STATEMENT
from kvsim.calibration.profile import Profile
from kvsim.calibration.step_price import StepPrice
from kvsim.cost import Line, Step
from kvsim.policy import Span

CAPTURED = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))
"""Token counts that vLLM captures as CUDA graphs; steps up to the last are padded to the next one."""

UNDISCOUNTED = "decodes that share pages were not timed: priced as if each read its own"


class _Share(NamedTuple):
    """What a step costs by its tokens, or by its sequences: attention is on top."""

    kernels: float
    """Of tokens, with the gaps between all kernels of the step."""
    host: float
    """Host time; of tokens, what launching all kernels of an uncaptured step takes."""
    is_measured: bool


class _KernelLine(NamedTuple):
    """What steps of a fixed number of decodes of one length take."""

    line: Line
    least: float
    """Seconds that no step takes less than."""
    host: float
    """Seconds on top."""
    tail: float
    """Seconds a token that the longest has beyond the mean."""


class ProfileCost:
    """Price steps by a profile.

        seconds = max(kernels, launches) + host, or the largest of the three if scheduling overlaps
        kernels = GEMMs and elementwise kernels at padded tokens + LM head and sampler at sequences
                  + Σ spans layers · attention + gap · number of kernels

    Attention of a step with chunks and decodes is the fused kernel's where the profile has it, at least as long as
    either part alone; else the sum of two calls. Whole prompts are charged by the faster of two kernels where they have
    one of their own. Tokens that several decodes read from the same pages are charged less, never less than if each
    was read once. Where a kernel does not split the KV of a sequence over the GPU, the longest decode counts besides. A
    step never gets faster by one more decode, a longer context, or a longer or deeper chunk. Pure but for two counters
    and the notes.
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
        most_captured: int = CAPTURED[-1],
    ) -> None:
        """`spans` are layers by window, `layout` and `page` how the policy keeps KV.

        `pads` says whether steps of up to `most_captured` tokens run as captured graphs, padded to CAPTURED.
        """
        self.profile = profile
        self.steps = 0
        """Steps priced so far."""
        self.extrapolated_steps = 0
        """Of those, steps with a size outside what was measured."""
        self.notes: list[str] = list(profile.warnings)
        """What is priced by something near it, a sentence each."""
        scale = profile.model.layers / sum(span.weight for span in spans)
        self._spans: list[Layers] = []
        for span in spans:
            wanted = Kind("", layout, page, span.window, SIXTEEN_BITS.get(kv_dtype, kv_dtype))
            layers, notes = choose_layers(profile.fits.attention, span.weight * scale, wanted)
            self._spans.append(layers)
            self.notes += [note for note in notes if note not in self.notes]
        self._discounts = [span.discount or 0.0 for span in self._spans]
        self._price = StepPrice(profile.fits, profile.model)
        self._host = (float(str(profile.host.get("step", 0))), float(str(profile.host.get("request", 0))))
        self._overlaps_host = overlaps_host
        self._captured = tuple(size for size in CAPTURED if pads and size <= most_captured)
        self._most = (self._price.most_tokens(), self._price.most_rows())
        self._lines: dict[int, list[DecodeCurve]] = {}
        self._windows = [span.window for span in spans]
        self._sees_all = self._windows == [None]
        self.reads_longest = any(each.reads_longest for each in self._spans)
        """Whether it matters how long the longest decode is."""
        self._kernels: dict[int, _KernelLine] = {}
        self._known_lines: dict[int, tuple[int, Line]] = {}
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

    @property
    def discounts_sharing(self) -> bool:
        """Tell whether decodes that read the same pages are charged less."""
        return any(self._discounts)

    def decode_line(self, decodes: int, context: int, longest: int = 0) -> Line | None:
        """Return the line that prices steps of so many decodes around this Σ context; None with windows.

        It holds for as long as the longest of them, of `longest` tokens now, is as much longer than the others.
        """
        if not self._sees_all:
            return None
        kernels = self._kernels.get(decodes)
        if kernels is None or not kernels.line.since <= context <= kernels.line.until:
            kernels = self._kernels[decodes] = self._kernel_line(decodes, context)
        line, least, host, tail = kernels
        fixed, rate, until, since, is_measured = line
        if tail and longest:
            fixed += tail * max(0, decodes * longest - context) / decodes
        if fixed < least:
            line = at_least(Line(fixed, rate, until, since, is_measured), least, context)
            return line._replace(fixed=line.fixed + host)
        return Line(fixed + host, rate, until, since, is_measured)

    def _kernel_line(self, decodes: int, context: int) -> _KernelLine:
        """Return the line of the kernels of so many decodes of one length, around this Σ context."""
        dense = self._by_tokens.get(decodes) or self._price_tokens(decodes)
        head = self._by_rows.get(decodes) or self._price_rows(decodes)
        attention = self._decode_lines(decodes)[0]
        line = attention.seconds.line(context)
        line = line._replace(fixed=line.fixed + dense.kernels + head.kernels)
        inside = dense.is_measured and head.is_measured
        line = within(line, attention.least, attention.most, context, inside)
        least = max(dense.host, head.host if self._overlaps_host else 0.0)
        return _KernelLine(line, least, 0.0 if self._overlaps_host else head.host, attention.tail)

    def count_steps(self, steps: int, is_measured: bool, shares: bool) -> None:
        """Note steps that were priced by a line."""
        self.steps += steps
        self.extrapolated_steps += 0 if is_measured else steps
        if shares:
            self._note_sharing()

    def seconds(self, step: Step) -> float:
        """Return how long the step takes."""
        if self._sees_all and not step.prefills and not (step.decode_shared and self.discounts_sharing):
            line, context = self._known_line(step), step.decode_context[0]
            self.count_steps(1, line.is_measured, step.decode_shared > 0)
            return line.fixed + line.rate * context
        rows = step.decodes + step.prefills
        dense = self._by_tokens.get(step.tokens) or self._price_tokens(step.tokens)
        head = self._by_rows.get(rows) or self._price_rows(rows)
        kernels, inside = dense.kernels + head.kernels, dense.is_measured and head.is_measured
        if not step.prefills:
            for curve, decodes in zip(self._decode_lines(rows), self._decodes(step), strict=True):
                kernels += curve.seconds.at(decodes.context) + curve.late(decodes)
                inside = inside and curve.least <= decodes.context <= curve.most
        else:
            attention, was_timed = self._with_chunks(step)
            kernels += attention
            inside = inside and was_timed
        if step.decode_shared and step.decodes:
            kernels -= self._saved(step)
        self.steps += 1
        self.extrapolated_steps += not inside
        kernels = max(kernels, dense.host)
        return max(kernels, head.host) if self._overlaps_host else kernels + head.host

    def _with_chunks(self, step: Step) -> tuple[float, bool]:
        """Return the attention of a step that prefills, and whether all of it was measured."""
        total, inside = 0.0, True
        lines = self._decode_lines(step.decodes) if step.decodes else None
        decoding = self._decodes(step)
        for number, span in enumerate(self._spans):
            chunks = Chunks(
                step.prefills, step.prefill_tokens, step.prefill_context[number], step.prefill_area[number]
            )
            seconds, was_timed = span.chunks(chunks)
            inside = inside and was_timed
            if lines is not None:
                curve, decodes = lines[number], decoding[number]
                alone = curve.seconds.at(decodes.context) + curve.late(decodes)
                inside = inside and curve.least <= decodes.context <= curve.most
                fused = span.fused(chunks, decodes)
                seconds = seconds + alone if fused is None else max(seconds, alone, fused)
            total += seconds
        return total, inside

    def _saved(self, step: Step) -> float:
        """Return what decodes save because some of what they read is in the cache already."""
        self._note_sharing()
        if not any(self._discounts):
            return 0.0
        each = zip(self._decode_lines(step.decodes), step.decode_context, self._discounts, strict=True)
        return sum([line.saved(context, step.decode_shared, discount) for line, context, discount in each])

    def _note_sharing(self) -> None:
        if UNDISCOUNTED not in self.notes and any(span.discount is None for span in self._spans):
            self.notes.append(UNDISCOUNTED)

    def _decodes(self, step: Step) -> list[Decodes]:
        """Return the decodes as each span sees them."""
        seen = [window or step.decode_longest for window in self._windows]
        each = zip(step.decode_context, seen, strict=True)
        return [Decodes(step.decodes, context, min(step.decode_longest, most)) for context, most in each]

    def _known_line(self, step: Step) -> Line:
        """Return the line of a step of decodes that see everything."""
        context = step.decode_context[0]
        lack = step.decodes * step.decode_longest - context if self.reads_longest else 0
        known = self._known_lines.get(step.decodes)
        if known is not None and known[0] == lack and known[1].since <= context <= known[1].until:
            return known[1]
        line = self.decode_line(step.decodes, context, step.decode_longest)
        assert line is not None
        self._known_lines[step.decodes] = lack, line
        return line

    def _decode_lines(self, sequences: int) -> list[DecodeCurve]:
        lines = self._lines.get(sequences)
        if lines is None:
            padded = self._graph(sequences) or sequences
            lines = self._lines[sequences] = [span.line(sequences, padded) for span in self._spans]
        return lines

    def _graph(self, tokens: int) -> int | None:
        """Return the size of the captured graph that a step of so many tokens is run as."""
        return next((size for size in self._captured if size >= tokens), None)

    def _price_tokens(self, tokens: int) -> _Share:
        graph = self._graph(tokens)
        captured, padded = graph is not None, graph or tokens
        gap = self.profile.host.get("captured_gap" if captured else "eager_gap", 0)
        kernels = self._price.by_tokens(padded, "graph" if captured else "eager")
        kernels += self._price.calls * float(str(gap))
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
