"""Does the mini engine compute the model? Asked of each memory layout before anything is timed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from kvsim.calibration.fidelity_steps import Scheduled, ScheduledStep, kind_of
from kvsim.calibration.mini_engine import MiniEngine
from kvsim.calibration.mini_engine_memory import EngineMemory
from kvsim.calibration.mini_engine_reference import reference_logits
from kvsim.calibration.numeric_check import BackendRefusedError, relative_error
from kvsim.cost import Step

if TYPE_CHECKING:
    import torch

LIMITS = {"bf16": 0.1, "fp16": 0.03, "fp32": 1e-3}
"""Largest relative error of a row of logits by dtype: rounding adds up over the layers, a wrong wire gives about 1."""
QUANTISED_LIMIT = 0.3
"""The same where keys and values are kept in 8 bits, which the reference does not do."""
_SECOND, _HIT, _DECODES = 9, 6, 2


def check_engine(engine: MiniEngine, name: str, seed: int) -> float:
    """Return the largest relative error of logits on a small script of steps.

    Raises BackendRefusedError above the limit. There are two texts: one in two chunks, then, in one step, its first
    decode and the second text, whose first page is the first one's where pages can be shared; then both decode.
    """
    memory = engine.memory
    limit = LIMITS[engine.weights.model.dtype]
    if memory.store.key.element_size() == 1:
        limit = QUANTISED_LIMIT
    worst = 0.0
    texts, steps = _script(memory, engine.weights.model.vocab, seed)
    wanted = [reference_logits(engine.weights, text) for text in texts]
    for step in steps:
        ids = np.concatenate(
            [texts[each.row][each.length - each.tokens : each.length] for each in step.sequences]
        )
        prepared = engine.prepare(step, ids)
        prepared.run(0)
        right = [wanted[each.row][each.length - 1] for each in step.sequences]
        worst = max(worst, _error(prepared.logits, right))
    if not worst <= limit:
        raise BackendRefusedError(
            f"the mini engine refused on {name}: logits are off by {worst:.2g}, allowed {limit:g}"
        )
    return worst


def _error(logits: torch.Tensor, right: list[torch.Tensor]) -> float:
    import torch

    return relative_error([logits], torch.stack(right)) if len(logits) else math.inf


def _script(memory: EngineMemory, vocab: int, seed: int) -> tuple[list[np.ndarray], list[ScheduledStep]]:
    is_paged = memory.layout.layout == "paged"
    shared = memory.layout.page if is_paged else 0
    first = (shared or 16) + 1
    generator = np.random.default_rng(seed)
    lengths = (first + _SECOND + _DECODES, shared + _HIT + _DECODES)
    texts = [generator.integers(vocab, size=length) for length in lengths]
    texts[1][:shared] = texts[0][:shared]
    tables = _tables(memory, lengths, shared)
    prompt = first + _SECOND
    plan: list[list[tuple[int, int, int]]] = [
        [(0, first, first)],
        [(0, _SECOND, prompt)],
        [(0, 1, prompt + 1), (1, _HIT, shared + _HIT)],
        [(0, 1, prompt + 2), (1, 1, shared + _HIT + 1)],
    ]
    steps = []
    for number, rows in enumerate(plan):
        sequences = tuple(
            Scheduled(row, tokens, length, tokens == 1, tables[row]) for row, tokens, length in rows
        )
        steps.append(ScheduledStep(number, kind_of(sequences, 0), sequences, Step(0, 0, 0, ())))
    return texts, steps


def _tables(memory: EngineMemory, lengths: tuple[int, ...], shared: int) -> list[tuple[tuple[int, ...], ...]]:
    """Deal pages out from the last one down, so that no table is in order; the second text shares one a group."""
    layout = memory.layout
    if layout.layout == "contiguous":
        return [((memory.pages - 1 - row,),) for row in range(len(lengths))]
    left = list(range(1, memory.pages))
    found = [
        [[left.pop() for _ in range(-(-length // layout.page))] for _ in range(layout.tables)]
        for length in lengths
    ]
    for mine, other in zip(found[1], found[0], strict=True):
        mine[: shared // layout.page] = other[: shared // layout.page]
    return [tuple(map(tuple, tables)) for tables in found]
