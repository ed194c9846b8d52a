"""One timed kernel: what was run, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Op = Literal[
    "attn_decode",
    "attn_prefill",
    "attn_mixed",
    "gemm",
    "elementwise",
    "kv_write",
    "lm_head",
    "sampler",
    "allreduce",
    "launch",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A kernel call of one layer on one GPU, timed several times.

    Attention points name their sequences: `q[i]` query tokens of sequence i, `kv[i]` KV tokens it attends to, those
    queries included. GEMMs are (m × k) · (k × n). Times are nanoseconds of one call, every repeat kept.
    """

    id: str
    """Unique in its profile."""
    set: str
    """Part of the grid it belongs to: D1, D2, P1, G, … or the importer's name."""
    op: Op
    ns: tuple[float, ...]
    """Raw times of one call, in ns, each > 0."""
    q: tuple[int, ...] = ()
    kv: tuple[int, ...] = ()
    m: int = 0
    """GEMM rows, or tokens of an elementwise op, or rows of an LM head."""
    n: int = 0
    k: int = 0
    name: str = ""
    """Which GEMM (qkv, o, gate_up, down, …) or elementwise op (norm, rope, activation, …)."""
    message_bytes: int = 0
    """All-reduce size."""
    gpus: int = 1
    heads: tuple[int, int, int] = (0, 0, 0)
    """Query heads, KV heads and head size on one GPU; for MLA (heads, 1, kv_rank + rope)."""
    layout: Literal["paged", "contiguous", "shared"] = "paged"
    page: int | None = None
    """Tokens a page; None when unknown, or the whole slot for contiguous."""
    window: int | None = None
    shared_tokens: int = 0
    """KV tokens that a sequence reads from pages another one reads too, beyond the first reading of each."""
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    backend: str = ""
    kernels: tuple[str, ...] = ()
    """Kernel names that the profiler saw."""
    mode: Literal["graph", "eager"] = "graph"
    cold: bool = True
    """Whether KV and weights were out of the L2 cache."""
    calls: int = 1
    """Calls in one replay, over different KV locations."""
    sm_mhz: tuple[float, float] | None = None
    """SM clock before and after; None where it could not be read, as with the other readings."""
    memory_mhz: tuple[float, float] | None = None
    """Memory clock before and after."""
    temperature_c: tuple[float, float] | None = None
    """Of the chip, in °C, before and after."""
    power_w: tuple[float, float] | None = None
    """Power drawn before and after, in watts."""
    slow_ns: tuple[float, ...] = ()
    """Raw times of the same call at a slower SM clock: such a point is timed twice, `ns` is of the faster."""
    slow_sm_mhz: tuple[float, float] | None = None
    """SM clock before and after those."""
    rel_err: float | None = None
    """Largest relative error of the numeric check."""
    held_out: bool = False
    """Kept from the fit, to state its error."""
    flags: tuple[str, ...] = field(default=())
    """What is odd about it: clock, drift, above peak, …; flagged `rejected` points are not fitted."""

    @property
    def seconds(self) -> float:
        """Return the median time of one call."""
        ordered = sorted(self.ns)
        middle = len(ordered) // 2
        return (ordered[middle] + ordered[~middle]) / 2 * 1e-9
