"""The metrics of a vLLM server, kept for a simulated one: names, labels and bucket edges as in vLLM's V1 engine.

Names, types and edges follow vllm/v1/metrics/loggers.py, meanings vllm/v1/metrics/stats.py, of vLLM 0.1x and later.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"

TTFT_EDGES = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN_EDGES = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
LATENCY_EDGES = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
)  # fmt: skip
STEP_EDGES = tuple(float(edge) for edge in (1, *(1 << power for power in range(3, 15))))

FINISHED = ("stop", "length", "abort")
SOURCES = ("local_compute", "local_cache_hit")
USES = ("live", "reserved", "internal", "external", "reusable", "free")


class Family(NamedTuple):
    """One metric: a series for each value of its own label, or one."""

    name: str
    """Without the `_total` of a counter."""
    kind: str
    text: str
    label: str = ""
    """Its label besides model_name and engine."""
    values: tuple[str, ...] = ("",)
    edges: tuple[float, ...] = ()
    """Upper edges of a histogram's buckets, without infinity."""


def families(max_model_len: int) -> tuple[Family, ...]:
    """Return all metrics of a server, in the order in which they are written."""
    lengths = one_two_five(max_model_len)
    seconds, tokens = LATENCY_EDGES, TOKEN_EDGES
    return (
        Family("vllm:num_requests_running", GAUGE, "Requests in the batch."),
        Family("vllm:num_requests_waiting", GAUGE, "Requests in the queue."),
        Family("vllm:kv_cache_usage_perc", GAUGE, "Share of the KV pool that requests hold, 0 to 1."),
        Family("kvsim:kv_cache_share", GAUGE, "Share of the KV pool by use, 0 to 1.", "use", USES),
        Family("vllm:prefix_cache_queries", COUNTER, "Prompt tokens looked up in the prefix cache."),
        Family("vllm:prefix_cache_hits", COUNTER, "Prompt tokens found in the prefix cache."),
        Family("vllm:num_preemptions", COUNTER, "Times a running request lost its memory."),
        Family("vllm:prompt_tokens", COUNTER, "Prompt tokens of requests that have their first token."),
        Family(
            "vllm:prompt_tokens_by_source", COUNTER, "The same by where they came from.", "source", SOURCES
        ),
        Family("vllm:prompt_tokens_cached", COUNTER, "The same, as far as they were in the cache."),
        Family("vllm:generation_tokens", COUNTER, "Output tokens."),
        Family("vllm:request_success", COUNTER, "Finished requests.", "finished_reason", FINISHED),
        _histogram("vllm:iteration_tokens_total", "Prompt and output tokens a step.", STEP_EDGES),
        _histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", TTFT_EDGES),
        _histogram("vllm:inter_token_latency_seconds", "Between a request's tokens.", tokens),
        _histogram("vllm:request_time_per_output_token_seconds", "Mean of these for each request.", tokens),
        _histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", seconds),
        _histogram("vllm:request_queue_time_seconds", "Arrival to first scheduled.", seconds),
        _histogram("vllm:request_inference_time_seconds", "First scheduled to last token.", seconds),
        _histogram("vllm:request_prefill_time_seconds", "First scheduled to first token.", seconds),
        _histogram("vllm:request_decode_time_seconds", "First token to last token.", seconds),
        _histogram("vllm:request_prompt_tokens", "Prompt tokens of finished requests.", lengths),
        _histogram("vllm:request_generation_tokens", "Output tokens of finished requests.", lengths),
        _histogram("vllm:request_max_num_generation_tokens", "Most output tokens of its samples.", lengths),
        _histogram("vllm:request_prefill_kv_computed_tokens", "Prompt tokens not in the cache.", lengths),
    )


def one_two_five(largest: int) -> tuple[float, ...]:
    """Return 1, 2, 5, 10, 20, 50, … up to the largest.

    >>> one_two_five(60)
    (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
    """
    return tuple(_edges(largest))


class Histogram:
    """Counts of values by bucket, and their sum."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        """Start empty."""
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value in the first bucket whose edge it does not exceed."""
        self.counts[bisect_left(self.edges, value)] += times
        self.total += value * times

    def numbers(self) -> list[float]:
        """Return the cumulative counts up to each edge and infinity, then the sum."""
        found, reached = [], 0.0
        for count in self.counts:
            reached += count
            found.append(reached)
        return [*found, self.total]


class Readings:
    """What all metrics stand at."""

    def __init__(self, all_families: tuple[Family, ...]) -> None:
        """Start at zero."""
        self.plain = {
            (family.name, value): 0.0
            for family in all_families
            if family.kind != HISTOGRAM
            for value in family.values
        }
        self.histograms = {
            family.name: Histogram(family.edges) for family in all_families if family.kind == HISTOGRAM
        }

    def set(self, name: str, amount: float, value: str = "") -> None:
        """Set a gauge."""
        self.plain[name, value] = amount

    def add(self, name: str, amount: float, value: str = "") -> None:
        """Add to a counter."""
        self.plain[name, value] += amount

    def observe(self, name: str, amount: float, times: int = 1) -> None:
        """Add to a histogram."""
        self.histograms[name].observe(amount, times)

    def numbers(self, family: Family) -> list[float]:
        """Return a family's figures in the order of its series."""
        if family.kind == HISTOGRAM:
            return self.histograms[family.name].numbers()
        return [self.plain[family.name, value] for value in family.values]


def _histogram(name: str, text: str, edges: tuple[float, ...]) -> Family:
    return Family(name, HISTOGRAM, text, edges=edges)


def _edges(largest: int) -> Iterator[float]:
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power > largest:
                return
            yield float(factor * power)
        power *= 10
