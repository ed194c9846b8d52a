"""Kernels of a step besides attention, from fitted curves: what depends on tokens, and on rows that sample."""

from __future__ import annotations

from kvsim.calibration.curve import Curve
from kvsim.calibration.fits import Fits
from kvsim.calibration.roofline_fit import padded
from kvsim.model import Model

CALLS_A_LAYER = {"norm": 2}
"""Calls in a layer of elementwise kernels that run more than once."""
ONCE_A_STEP = ("embedding", "final_norm")
"""Elementwise kernels outside the layers."""
ALLREDUCES_A_LAYER = 2
"""One after attention's output product and one after the FFN's, when several GPUs share the model."""
ACTIVATION_BYTES = 2
"""Bytes of an element between layers."""


def calls_of(name: str, layers: int) -> int:
    """Return how often a step calls an elementwise kernel."""
    return 1 if name in ONCE_A_STEP else layers * CALLS_A_LAYER.get(name, 1)


class StepPrice:
    """Seconds of all kernels of a step but attention's."""

    def __init__(self, fits: Fits, model: Model) -> None:
        """Price a model with fits made for it and for its share of GPUs."""
        self._fits = fits
        self._model = model
        layers = model.layers
        self._products = [(curve, layers) for curve in fits.gemm.values()]
        self._tokenwise = [(curve, calls_of(name, layers)) for name, curve in fits.elementwise.items()]

    @property
    def kernels(self) -> int:
        """Count the kernels of a step, attention's at one a layer."""
        return self._model.layers + sum(calls for _, calls in [*self._products, *self._tokenwise])

    @property
    def calls(self) -> int:
        """Count all kernels of a step: LM head and sampler too, where they were timed."""
        return self.kernels + sum(curve is not None for curve in (self._fits.lm_head, self._fits.sampler))

    def by_tokens(self, tokens: int, mode: str = "graph") -> float:
        """Return GEMMs, elementwise kernels and all-reduces of a step of so many tokens, captured or eager."""
        rows = padded(tokens)
        total = sum(calls * curve.at(rows) for curve, calls in self._products)
        total += sum(calls * curve.at(tokens) for curve, calls in self._tokenwise)
        reduce = self.allreduce(mode)
        if reduce is not None:
            message = tokens * self._model.hidden * ACTIVATION_BYTES
            total += ALLREDUCES_A_LAYER * self._model.layers * reduce.at(message)
        return total

    def by_rows(self, rows: int) -> float:
        """Return LM head and sampler for so many sequences that sample."""
        head, sampler = self._fits.lm_head, self._fits.sampler
        total = head.at(padded(rows)) if head else 0.0
        return total + (sampler.at(rows) if sampler else 0.0)

    def allreduce(self, mode: str) -> Curve | None:
        """Return the curve of this mode, else of the other; None on one GPU."""
        curves = self._fits.allreduce
        return curves.get(mode) or next(iter(curves.values()), None)

    def most_tokens(self) -> float:
        """Return the largest number of tokens for which every kernel was timed."""
        return min([curve.nodes[-1] for curve, _ in [*self._products, *self._tokenwise]])

    def most_rows(self) -> float:
        """Return the largest number of rows for which LM head and sampler were timed."""
        curves = [curve for curve in (self._fits.lm_head, self._fits.sampler) if curve]
        return min([curve.nodes[-1] for curve in curves], default=float("inf"))
