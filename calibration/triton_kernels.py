"""Our paged attention as Triton kernels: grouped heads, window, split KV, any query length and page size.

Imported only when used, since it needs triton. Names in capitals are compile-time constants: a change of one compiles
the kernel anew. Window, number of splits, lengths and strides are arguments of the launch.
"""
# ruff: noqa: N803 (capitals are how Triton code tells constants from values)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _locate(
    table: tl.tensor, n: tl.tensor, tile: tl.tensor, there: tl.tensor,
    page_stride: tl.tensor, token_stride: tl.tensor, PAGE: tl.constexpr, BLOCK_N: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Return where the tokens at positions `n` are in the pool: a base and an offset each, in elements.

    A pool can hold more elements than int32 counts, so pages are multiplied in int64. PAGE 0 stands for one slot.
    """
    if PAGE == 0:
        return tl.load(table).to(tl.int64) * page_stride, n * token_stride
    elif PAGE % BLOCK_N == 0:  # a tile lies in one page: one number to look up instead of BLOCK_N
        page = tl.load(table + tile * BLOCK_N // PAGE).to(tl.int64)
        return page * page_stride, (n % PAGE) * token_stride
    else:
        page = tl.load(table + n // PAGE, mask=there, other=0).to(tl.int64)
        return tl.full([], 0, tl.int64), page * page_stride + (n % PAGE) * token_stride


@triton.jit  # type: ignore[untyped-decorator]
def _load_tile(
    key: tl.tensor, value: tl.tensor, table: tl.tensor, n: tl.tensor, tile: tl.tensor, length: tl.tensor,
    page_stride: tl.tensor, token_stride: tl.tensor,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Return the keys [WIDTH, BLOCK_N] and values [BLOCK_N, WIDTH] at positions `n`."""
    there, d = n < length, tl.arange(0, WIDTH)
    base, offset = _locate(table, n, tile, there, page_stride, token_stride, PAGE, BLOCK_N)
    k_there, v_there = there[None, :] & (d < SIZE)[:, None], there[:, None] & (d < SIZE)[None, :]
    k = tl.load(key + base + offset[None, :] + d[:, None], mask=k_there, other=0.0)
    v = tl.load(value + base + offset[:, None] + d[None, :], mask=v_there, other=0.0)
    return k, v


@triton.jit  # type: ignore[untyped-decorator]
def _tile_range(
    first_row: tl.tensor, q_count: tl.tensor, length: tl.tensor, window: tl.tensor, splits: tl.tensor,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Return the KV tiles of this split, of all that some row of the block attends to."""
    cached = length - q_count
    last_token = tl.minimum((first_row + BLOCK_M - 1) // GROUP, q_count - 1)
    low = tl.maximum(0, cached + first_row // GROUP - window + 1) // BLOCK_N
    high = tl.cdiv(cached + last_token + 1, BLOCK_N)
    each = tl.cdiv(high - low, splits)
    start = low + tl.program_id(2) * each
    return start, tl.minimum(high, start + each)


@triton.jit  # type: ignore[untyped-decorator]
def _absorb(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, distance: tl.tensor, window: tl.tensor, score_scale: tl.tensor,
    top: tl.tensor, total: tl.tensor, acc: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Take a tile into a softmax in base 2: return each row's largest score, its sum and its weighted values."""
    score = tl.dot(q, k.to(q.dtype), input_precision="ieee") * score_scale
    score = tl.where((distance >= 0) & (distance < window), score, -float("inf"))
    new_top = tl.maximum(top, tl.max(score, 1))
    zero = tl.where(new_top == -float("inf"), 0.0, new_top)  # a row may have seen no key yet
    weight = tl.exp2(score - zero[:, None])
    decay = tl.exp2(top - zero)
    total = total * decay + tl.sum(weight, 1)  # before the product: registers of fp32 weights end here
    acc = tl.dot(weight.to(q.dtype), v.to(q.dtype), acc * decay[:, None], input_precision="ieee")
    return new_top, total, acc


@triton.jit(do_not_specialize=["window", "splits", "table_stride"])  # type: ignore[untyped-decorator]
def attend(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, tables: tl.tensor, q_start: tl.tensor, kv_len: tl.tensor,
    out: tl.tensor, part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor,
    score_scale: tl.tensor, value_scale: tl.tensor, window: tl.tensor, splits: tl.tensor,
    query_stride: tl.tensor, page_stride: tl.tensor, token_stride: tl.tensor, head_stride: tl.tensor,
    table_stride: tl.tensor,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLIT: tl.constexpr,
) -> None:  # fmt: skip
    """Attend with one block of rows to one split of a sequence's KV.

    Grid: (row blocks, sequences · KV heads, splits). A row is one query head of the group at one query token, so a
    decode reads each key once for the group. WIDTH: SIZE rounded up to a power of two. Output is laid out as query.
    """
    sequence, kv_head = tl.program_id(1) // (HEADS // GROUP), tl.program_id(1) % (HEADS // GROUP)
    q_first = tl.load(q_start + sequence)
    q_count = tl.load(q_start + sequence + 1) - q_first
    length = tl.load(kv_len + sequence)
    first_row = tl.program_id(0) * BLOCK_M
    if first_row >= q_count * GROUP:
        return
    rows, d = first_row + tl.arange(0, BLOCK_M), tl.arange(0, WIDTH)
    live, in_head = (rows < q_count * GROUP)[:, None], (d < SIZE)[None, :]
    token, head = rows // GROUP, kv_head * GROUP + rows % GROUP
    row_offset = (q_first + token).to(tl.int64)[:, None] * query_stride + head[:, None] * SIZE + d[None, :]
    q = tl.load(query + row_offset, mask=live & in_head, other=0.0)
    own = length - q_count + token
    shift, table = kv_head * head_stride, tables + sequence * table_stride
    top, total = tl.full([BLOCK_M], -float("inf"), tl.float32), tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    start, stop = _tile_range(first_row, q_count, length, window, splits, GROUP, BLOCK_M, BLOCK_N)
    for tile in range(start, stop):
        n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        k, v = _load_tile(
            key + shift, value + shift, table, n, tile, length, page_stride, token_stride, SIZE, WIDTH, PAGE, BLOCK_N
        )  # fmt: skip
        top, total, acc = _absorb(q, k, v, own[:, None] - n[None, :], window, score_scale, top, total, acc)
    if SPLIT:
        part = (((q_first + token).to(tl.int64) * HEADS + head) * splits + tl.program_id(2))[:, None]
        tl.store(part_max + part, top[:, None], mask=live)
        tl.store(part_sum + part, total[:, None], mask=live)
        tl.store(part_out + part * WIDTH + d[None, :], acc, mask=live)
    else:
        result = acc * (value_scale / tl.where(live, total[:, None], 1.0))
        tl.store(out + row_offset, result.to(out.dtype.element_ty), mask=live & in_head)


@triton.jit(do_not_specialize=["splits"])  # type: ignore[untyped-decorator]
def combine(
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, out: tl.tensor,
    value_scale: tl.tensor, splits: tl.tensor,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, MOST_SPLITS: tl.constexpr,
) -> None:  # fmt: skip
    """Join the splits of one row: Σ out·2^(max − top) / Σ sum·2^(max − top). Grid: (query tokens · heads)."""
    row = tl.program_id(0).to(tl.int64)
    part = row * splits + tl.arange(0, MOST_SPLITS)
    there = tl.arange(0, MOST_SPLITS) < splits
    d = tl.arange(0, WIDTH)
    top = tl.load(part_max + part, mask=there, other=-float("inf"))
    share = tl.exp2(top - tl.max(top, 0))
    total = tl.sum(share * tl.load(part_sum + part, mask=there, other=0.0), 0)
    used = there & (share > 0)
    parts = tl.load(part_out + part[:, None] * WIDTH + d[None, :], mask=used[:, None], other=0.0)
    result = tl.sum(parts * share[:, None], 0) * (value_scale / total)
    tl.store(out + row * SIZE + d, result.to(out.dtype.element_ty), mask=d < SIZE)
