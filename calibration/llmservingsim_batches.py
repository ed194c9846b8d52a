"""LLMServingSim's attention batches, of equal and of unequal lengths.

Equal ones are in attention.csv, some long among many short ones in skew.csv. In the published RTX 4090 and RTX PRO
6000 tables, skew.csv holds sums over the three forwards where attention.csv holds their mean: its equal batches take
2.99 and 2.98 times as long as the same batches there (median of 327 each).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from kvsim.calibration.points import Op, Point
from kvsim.calibration.table_file import read_table
from kvsim.errors import InputError

NS_PER_US = 1e3
PAGE = 16
BACKEND = "vLLM 0.19 FlashAttention 2"
AGREEMENT = 0.05
"""How far equal batches of the two tables may disagree, after division by a whole number."""
EQUAL = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]
UNEQUAL = ["n", "nb", "pc", "kp", "kvs", "kv_big"]


def read_batches(tables: Path, heads: tuple[int, int, int], origin: str) -> tuple[list[Point], list[str]]:
    """Return the points of both tables, and remarks; skew.csv may be absent."""
    equal = read_table(tables / "attention.csv", counts=EQUAL, batches=["n_decode"], times=["time_us"])
    points = [*_equal(tables / "attention.csv", equal, heads, origin)]
    path = tables / "skew.csv"
    if not path.is_file():
        return points, ["no skew.csv: no batch of unequal lengths among the points"]
    unequal = read_table(
        path, counts=UNEQUAL, batches=["n", "nb"], times=["kv_mean", "t_mean_us", "t_skew_us"]
    )
    forwards = _forwards(path, equal, unequal)
    points += _unequal(path, unequal, forwards, heads, origin)
    summed = (
        f"skew.csv holds sums of {forwards} forwards, judged by its equal batches: times were divided by it"
    )
    return points, [] if forwards == 1 else [summed]


def _forwards(path: Path, equal: pd.DataFrame, unequal: pd.DataFrame) -> int:
    """Return how many forwards a time of skew.csv is the sum of.

    Decodes of equal length, which are in both tables, tell it.
    """
    alone = equal[equal["prefill_chunk"] == 0].sort_values("kv_decode")
    lines = {count: alone[alone["n_decode"] == count] for count in sorted(set(alone["n_decode"].tolist()))}
    ratios = []
    pure = unequal[unequal["pc"] == 0]
    for count, length, time in zip(pure["n"], pure["kv_mean"], pure["t_mean_us"], strict=True):
        line = lines.get(count)
        if line is not None and line["kv_decode"].min() <= length <= line["kv_decode"].max():
            ratios.append(time / float(np.interp(length, line["kv_decode"], line["time_us"])))
    if not ratios:
        raise InputError(
            f"{path}: no batch without prefill is also in attention.csv, so its unit is not known"
        )
    ratio = float(np.median(ratios))
    forwards = max(1, round(ratio))
    if abs(ratio / forwards - 1) > AGREEMENT:
        raise InputError(
            f"{path}: t_mean_us is {ratio:.2f} times what attention.csv has for the same batches; "
            "it must be the same, or a sum of whole forwards"
        )
    return forwards


def _equal(path: Path, frame: pd.DataFrame, heads: tuple[int, int, int], origin: str) -> Iterator[Point]:
    columns = [frame[name].tolist() for name in [*EQUAL, "time_us"]]
    for row, (chunk, cached, decodes, context, time) in enumerate(zip(*columns, strict=True), 1):
        name = f"{chunk}+{cached}-{decodes}x{context}"
        batch = _batch(chunk, cached, [context] * decodes, time, heads, name, origin)
        if batch is None:
            raise InputError(f"{path}: row {row}: neither a chunk of prompt nor a decode")
        yield batch


def _unequal(
    path: Path, frame: pd.DataFrame, forwards: int, heads: tuple[int, int, int], origin: str
) -> Iterator[Point]:
    """Yield batches in which `nb` of `n` decodes are long."""
    columns = [frame[name].tolist() for name in [*UNEQUAL, "t_skew_us"]]
    for row, (decodes, long, chunk, cached, short, far, time) in enumerate(zip(*columns, strict=True), 1):
        if not 0 < decodes >= long:
            raise InputError(
                f"{path}: row {row}: nb must be at most n, and n at least 1; got {long} of {decodes}"
            )
        lengths = [far] * long + [short] * (decodes - long)
        name = f"skew-{chunk}+{cached}-{long}x{far}-{decodes - long}x{short}"
        batch = _batch(chunk, cached, lengths, time / forwards, heads, name, f"{origin}-skew")
        if batch is not None:
            yield batch


def _batch(
    chunk: int,
    cached: int,
    contexts: list[int],
    time: float,
    heads: tuple[int, int, int],
    name: str,
    origin: str,
) -> Point | None:
    """Make a point of one chunk, or none, and the decodes beside it; None of neither."""
    if not chunk and not contexts:
        return None
    op: Op = "attn_decode" if not chunk else "attn_mixed" if contexts else "attn_prefill"
    q = (chunk,) if chunk else ()
    kv = (chunk + cached,) if chunk else ()
    return Point(
        id=f"{op}-{name}",
        set=origin,
        op=op,
        ns=(round(time * NS_PER_US, 3),),
        q=q + (1,) * len(contexts),
        kv=kv + tuple(length + 1 for length in contexts),
        heads=heads,
        page=PAGE,
        backend=BACKEND,
        mode="eager",
    )
