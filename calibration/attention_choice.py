"""Which attention fit prices a policy, and what is then only near to what was timed."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

from kvsim.calibration.attention_kinds import SIXTEEN_BITS, Attention, Fitted, Kind
from kvsim.errors import InputError


def choose(attention: Attention, wanted: Kind) -> tuple[Fitted, list[str]]:
    """Return the fit that prices best what is wanted, and what is not exactly so, a sentence each.

    A shared layout is priced as the same pages unshared; `choose_discount` has what sharing saves.
    """
    of_dtype = _of_dtype(attention, wanted)
    notes: list[str] = []
    windows = {kind.window for kind in of_dtype}
    window = wanted.window if wanted.window in windows else None
    if window != wanted.window:
        notes.append(
            f"{wanted.op} with a window of {wanted.window} was not timed: priced as full attention to as many "
            "tokens, while windowed kernels take 1.0 to 1.5 times that"
        )
    of_window = [kind for kind in of_dtype if kind.window == window]
    if not of_window:
        raise InputError(f"no {wanted.op} points without a window, only of {', '.join(map(str, windows))}")
    reading = [kind for kind in of_window if not kind.dense]
    if not reading:
        notes.append(f"{wanted.op} behind a cached prefix was not timed: priced as whole prompts")
    nearest, said = _nearest(reading or of_window, wanted)
    return attention[nearest], notes + said


def choose_dense(attention: Attention, wanted: Kind) -> Fitted | None:
    """Return the fit of the kernel that takes whole prompts alone, if there is one for this dtype and window."""
    dtype = SIXTEEN_BITS.get(wanted.kv_dtype, wanted.kv_dtype)
    return attention.get(Kind("attn_prefill", window=wanted.window, kv_dtype=dtype, dense=True))


def choose_discount(attention: Attention, wanted: Kind) -> float | None:
    """Return the seconds that decodes save a token whose page another one reads too; None if that was not timed.

    Slots share nothing, and a window rarely reaches back to what sequences have in common.
    """
    if wanted.layout == "contiguous" or wanted.window is not None:
        return 0.0
    dtype = SIXTEEN_BITS.get(wanted.kv_dtype, wanted.kv_dtype)
    alike = Kind("attn_decode", "shared", kv_dtype=dtype)
    shared = [kind for kind in attention if kind._replace(page=None) == alike]
    if not shared:
        return None
    return attention[min(shared, key=lambda kind: _page_gap(kind.page, wanted.page))].discount


def _of_dtype(attention: Attention, wanted: Kind) -> list[Kind]:
    same = [kind for kind in attention if kind.op == wanted.op]
    kv_dtype = SIXTEEN_BITS.get(wanted.kv_dtype, wanted.kv_dtype)
    found = [kind for kind in same if kind.kv_dtype == kv_dtype]
    if not found:
        there = ", ".join(sorted({kind.kv_dtype for kind in same})) or "nothing"
        raise InputError(f"no {wanted.op} points over a KV cache of {wanted.kv_dtype}; there is {there}")
    return found


def _nearest(kinds: Sequence[Kind], wanted: Kind) -> tuple[Kind, list[str]]:
    """Return the kind of the nearest layout and page size."""
    layout = "paged" if wanted.layout == "shared" else wanted.layout
    of_layout = [kind for kind in kinds if kind.layout == layout]
    pages = of_layout or [kind for kind in kinds if kind.layout == "paged"] or kinds
    nearest = min(pages, key=lambda kind: _page_gap(kind.page, wanted.page))
    if nearest.layout != layout:
        return nearest, [f"{wanted.op} of {layout} memory was not timed: priced as {nearest.layout}"]
    if layout == "paged" and nearest.page and _page_gap(nearest.page, wanted.page):
        said = f"{wanted.op} with pages of {wanted.page} was not timed: priced as pages of {nearest.page}"
        return nearest, [said]
    return nearest, []


def _page_gap(page: int | None, wanted: int | None) -> float:
    return 0.0 if page is None or wanted is None else abs(log2(page / wanted))
