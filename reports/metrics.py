"""What the columns of a summary are called on an axis, and in which unit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import Series

_LATENCIES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "inter-token latency",
    "e2el": "end-to-end latency",
    "queue": "queueing",
}

_WORDS = {
    "request_throughput": "Throughput (requests/s)",
    "request_goodput": "Goodput (requests/s)",
    "output_throughput": "Throughput (output tokens/s)",
    "total_token_throughput": "Throughput (tokens/s)",
    "waste": "Wasted KV memory (% of the pool)",
    "kv_cache_usage": "KV cache usage (% of the pool)",
    "prefix_cache_hit_rate": "Prefix cache hits (% of prompt tokens)",
    "prefix_cache_hit_rate_blocks": "Prefix cache hits (% of blocks)",
    "readmission_hit_rate": "Hits after preemption (% of tokens)",
    "hull_share": "Steps inside what was measured (%)",
    "running_mean": "Running requests, mean",
    "running_max": "Running requests, most",
    "waiting_mean": "Waiting requests, mean",
    "batch_capacity": "Requests held at once, saturated",
    "preemptions": "Preemptions",
    "recomputed_tokens": "Recomputed (tokens)",
    "swapped_bytes": "Swapped (bytes)",
    "memory_saved_by_sharing": "KV memory saved by sharing (%)",
    "copies": "Copies of KV",
    "copied_bytes": "KV copied (bytes)",
    "duration": "Duration (s)",
    "arrival_rate": "Offered rate (requests/s)",
    "rate": "Offered rate (requests/s)",
    "scale_rate": "Arrivals, times the trace's rate",
    "block_size": "Block size (tokens)",
    "pool_tokens": "KV pool (tokens)",
    "kv_gib": "KV pool (GiB)",
    "num_gpu_blocks_override": "KV pool (blocks)",
    "kv_cache_memory_bytes": "KV pool (bytes)",
    "gpu_memory_utilization": "GPU memory utilization",
    "max_num_seqs": "max_num_seqs (requests)",
    "max_num_batched_tokens": "max_num_batched_tokens (tokens)",
    "max_model_len": "max_model_len (tokens)",
    "tensor_parallel_size": "GPUs (tensor parallel)",
}

SHARES = (
    "live", "reserved", "internal", "external", "reusable", "free", "waste", "kv_cache_usage",
    "prefix_cache_hit_rate", "prefix_cache_hit_rate_blocks", "readmission_hit_rate", "hull_share",
    "memory_saved_by_sharing",
)  # fmt: skip
"""Columns that are fractions in a frame and percentages on an axis."""


RATES = ("rate", "scale_rate", "arrival_rate")
"""Parameters that say how many requests come."""

CAPACITIES = (
    "pool_tokens", "kv_gib", "num_gpu_blocks_override", "kv_cache_memory_bytes", "gpu_memory_utilization",
)  # fmt: skip
"""Parameters that say how much KV fits."""

_COUNTS = (
    "duration", "completed", "failed", "rejected", "unfinished", "total_input_tokens", "total_output_tokens",
    "request_throughput", "request_goodput", "output_throughput", "total_token_throughput", "batch_capacity",
    "batch_capacity_bound", "max_output_tokens_per_s", "max_concurrent_requests", "preemptions", "recomputed_tokens",
    "swapped_bytes", "copies", "copied_bytes",
    "cached_tokens", "readmission_cached_tokens", "computed_tokens", "steps",
)  # fmt: skip
_LATENCY = re.compile(rf"(mean|median|std|p\d+)_({'|'.join(_LATENCIES)}|normalized_latency)_ms")
_LOAD = re.compile(r"(running|waiting)_(mean|p\d+|max)")


def is_metric(column: str) -> bool:
    """Tell whether a column is something that a run measured, not something it was given."""
    return (
        column in SHARES or column in _COUNTS or bool(_LATENCY.fullmatch(column) or _LOAD.fullmatch(column))
    )


def words_for(column: str) -> str:
    """Return an axis label with its unit; a column nobody knows keeps its name."""
    if column in _WORDS:
        return _WORDS[column]
    if column in SHARES:
        return f"{column.capitalize()} (% of the pool)"
    kind, _, rest = column.partition("_")
    name = rest.removesuffix("_ms")
    if rest.endswith("_ms") and name in _LATENCIES:
        return f"{_LATENCIES[name].capitalize()}, {kind} (ms)"
    return column


def scaled(values: Series, column: str) -> Series:
    """Return values in the unit of the axis label."""
    return values * 100.0 if column in SHARES else values
