"""Which beams of a beam search die and which are forked: a seeded rule in place of a language model."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from kvsim.errors import InputError

CHUNK = 64
"""Steps whose chances are drawn together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """How a run's beams fork: with output t ≥ 2 each one dies with probability min(1, turnover / t).

    A dead beam is replaced by a fork of a survivor, drawn uniformly; where all would die the luckiest lives on. Beams
    start as `width` different first tokens of one prompt. The probability falls with t since the cumulated scores that
    beams are ranked by differ more the longer they are: what beams have not in common then grows with their length, as
    it does in what is published of short and of long answers. With a constant probability it would not. A turnover of 4
    is fitted to what beams of 2, 4 and 6 save in PagedAttention (arXiv 2309.06180, Fig. 15b and §6.3).
    """

    width: int
    """Beams of a request."""
    turnover: float
    """Deaths that one beam sees while its length grows e-fold."""
    seed: int = 0
    """With the request's row it decides everything, so that policies that are compared see the same forks."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if not 0 <= self.turnover < inf:
            raise InputError(f"beam_turnover must be a number from 0 up, got {self.turnover}")
        if self.seed < 0:
            raise InputError(f"beam_seed must be at least 0, got {self.seed}")

    def lineage(self, row: int) -> Lineage:
        """Return the forks of a request by its row in the trace."""
        return Lineage(self, row)


class Lineage:
    """The forks of one request, drawn as far as somebody asks."""

    __slots__ = ("_beam", "_drawn", "_forks", "_row")

    def __init__(self, beam: Beam, row: int) -> None:
        """Start with nothing drawn."""
        self._beam = beam
        self._row = row
        self._drawn = 0
        self._forks: dict[int, tuple[int, ...]] = {}

    def parents(self, output: int) -> tuple[int, ...] | None:
        """Return whom each beam goes on from when output number `output` is chosen; None where each from itself."""
        while self._drawn <= output:
            self._draw()
        return self._forks.get(output)

    def next_fork(self, after: int, upto: int) -> int:
        """Return the first output after `after` at which somebody is forked, or `upto` if none is before that."""
        return next((output for output in range(after + 1, upto) if self.parents(output)), upto)

    def _draw(self) -> None:
        """Draw the next `CHUNK` outputs."""
        beam, first = self._beam, self._drawn
        rng = np.random.default_rng((beam.seed, self._row, first))
        chances, picks = rng.random((2, CHUNK, beam.width))
        outputs = np.arange(first, first + CHUNK)
        lives = chances >= beam.turnover / np.maximum(outputs, 1)[:, None]
        self._drawn = first + CHUNK
        for at in np.flatnonzero(~lives.all(axis=1)).tolist():
            output = first + at
            if output < 2:
                continue
            alive = np.flatnonzero(lives[at]).tolist() or [int(chances[at].argmax())]
            self._forks[output] = tuple(
                beam_number if beam_number in alive else alive[int(pick * len(alive))]
                for beam_number, pick in enumerate(picks[at].tolist())
            )
