"""Does an attention backend compute attention? Asked on a small case of the same kind before anything is timed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kvsim.calibration.attention_reference import attend_in_float64
from kvsim.calibration.case import Case, Layout
from kvsim.calibration.kv_pool import KvPool, place
from kvsim.calibration.kv_store import KvStore

if TYPE_CHECKING:
    import torch

    from kvsim.calibration.backends import AttentionBackend

LIMITS = {"bf16": 1e-2, "fp16": 2e-3, "fp32": 1e-5}
"""Largest relative error of an output row, by dtype; about four times what rounding alone gives."""
UNSEEN = 64.0
"""Values of tokens that no query may see are this much louder, so that a leak of one cannot hide."""
EDGE = 16.0
"""So are, somewhat less, the values at either end of what queries see, so that a loss of one cannot hide."""
_LOCATIONS = 2
_LONGEST_CHUNK = 130
_MOST_PAGE = 256


class BackendRefusedError(RuntimeError):
    """A backend computed something else than attention, or failed; one line names the case and the error."""


def numeric_error(backend: AttentionBackend, case: Case, device: torch.device, seed: int = 0) -> float:
    """Return the largest relative error over the small cases of this kind that the backend supports.

    Raises BackendRefusedError when one is over its limit, not finite, or fails to run at all.
    """
    cases = [small for small in small_cases(case, device) if backend.supports(small, device) is None]
    if not cases:
        raise BackendRefusedError(f"{backend.name} refused: it supports no small case of {case.label}")
    worst = 0.0
    for offset, small in enumerate(cases):
        try:
            error = error_on(backend, small, device, seed + offset)
        except (
            Exception
        ) as failure:  # whatever it dies of, compiler and driver errors included, it is not timed
            first_line = (str(failure).splitlines() or [""])[0]
            raise BackendRefusedError(
                f"{backend.name} refused on {small.label}: {type(failure).__name__}: {first_line}"
            ) from failure
        if not error <= LIMITS[small.dtype]:
            raise BackendRefusedError(
                f"{backend.name} refused on {small.label}: "
                f"relative error {error:.2g}, allowed {LIMITS[small.dtype]:g}"
            )
        worst = max(worst, error)
    return worst


def error_on(backend: AttentionBackend, case: Case, device: torch.device, seed: int) -> float:
    """Return the largest relative error of a case's output rows, against float64, over two KV locations.

    Data are drawn from the seed. Every output is overwritten with NaN before the next call, so that a row which a
    kernel does not write shows, and so does an output it remembers.
    """
    store = KvStore.holding(case, _LOCATIONS, device=device, seed=seed)
    pool = place(case, store, _LOCATIONS, seed)
    store.amplify_values(loudness(pool))
    call = backend.prepare(pool)
    worst = 0.0
    for location in (0, 1, 0):
        output = call(location)
        parts = [output] if not isinstance(output, Sequence) else list(output)
        worst = max(worst, relative_error(parts, attend_in_float64(pool, location)))
        for part in parts:
            part.fill_(math.nan)
    return worst


def relative_error(parts: Sequence[torch.Tensor], wanted: torch.Tensor) -> float:
    """Return max over rows of ‖got − wanted‖ / ‖wanted‖; infinite when a number is not finite or rows are missing."""
    import torch

    got = torch.cat([part.double() for part in parts])
    if got.shape != wanted.shape or not bool(got.isfinite().all()):
        return math.inf
    return float(((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


def loudness(pool: KvPool) -> torch.Tensor:
    """Return the factor of each token in the store: UNSEEN, or EDGE, or 1 between the edges."""
    import torch

    case = pool.case
    factors = torch.full((pool.key.shape[0] * case.page,), UNSEEN, device=pool.key.device)
    placed = [(location, index) for location in range(pool.locations) for index in range(len(case.q))]
    for factor, is_edge in ((1.0, False), (EDGE, True)):
        for location, index in placed:
            slots = pool.slots(location, index)
            for part in _edges(case, index) if is_edge else (_seen(case, index),):
                factors[slots[part]] = factor
    return factors


def _seen(case: Case, index: int) -> slice:
    window = case.window or case.kv[index]
    return slice(max(0, case.kv[index] - case.q[index] - window + 1), case.kv[index])


def _edges(case: Case, index: int) -> tuple[slice, slice]:
    """Return the first tokens that queries see, one for each start of a window, and the queries' own."""
    first = _seen(case, index).start
    window = case.window or case.kv[index]
    starts = slice(first, max(0, case.kv[index] - window) + 1)
    return starts, slice(case.kv[index] - case.q[index], case.kv[index])


def small_cases(case: Case, device: torch.device) -> list[Case]:
    """Return cases of the same heads, layout, page, window and dtypes that a float64 reference can follow.

    Lengths are uneven and straddle pages and window. Decode: a few long sequences (KV is split) and many short ones
    (it is not). Else whole prompts and chunks behind a cached prefix, with single queries among them if mixed.
    """
    longest = min(_LONGEST_CHUNK, max(case.q))
    if case.op == "attn_decode":
        return [_small(case, [1] * 6), _small(case, [1] * _many(case, device), is_short=True)]
    singles = [1, 1] if case.op == "attn_mixed" else []
    chunks = [longest, max(2, longest // 3), max(2, longest - 1), longest]
    behind = _small(case, [*singles, *chunks])
    if singles:
        return [behind]
    prompts = chunks[:1] * 3 if len(set(case.q)) == 1 else chunks[:3]
    layout: Layout = "paged" if case.layout == "shared" else case.layout
    whole = replace(_small(case, prompts), layout=layout, prefix=0, groups=1, kv=tuple(prompts))
    return [whole, behind]


def _small(case: Case, queries: Sequence[int], is_short: bool = False) -> Case:
    page = min(case.page, _MOST_PAGE) if case.layout == "contiguous" else case.page
    prefix = min(case.prefix, 2 * case.page)
    cached = [0, page - 1, page, 1, 3 * min(page, _MOST_PAGE) + 5, 300]
    if is_short:
        cached = [0, 1, page - 1, page, min(page, 16) + 3]
    elif case.window is not None and case.window < max(case.kv):
        cached = [0, case.window - 1, case.window, case.window + page + 7, page, 3]
    kv = tuple(prefix + cached[index % len(cached)] + count for index, count in enumerate(queries))
    return replace(
        case,
        q=tuple(queries),
        kv=kv,
        page=max(max(kv), page) + 3 if case.layout == "contiguous" else page,
        prefix=prefix,
        groups=min(case.groups, 2) if case.layout == "shared" else 1,
    )


def _many(case: Case, device: torch.device) -> int:
    """Return enough sequences that a kernel has no reason to split their KV."""
    if device.type != "cuda":
        return 7
    import torch

    blocks = 2 * torch.cuda.get_device_properties(device).multi_processor_count
    return blocks // case.heads[1] + 1
