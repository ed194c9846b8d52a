"""Block tables per layer group, where windowed layers give back what has left their window."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import lcm

from kvsim.errors import InputError
from kvsim.model import layer_groups
from kvsim.policies.block_layout import Layout
from kvsim.policies.block_policy import BlockPolicy
from kvsim.policies.groups import Group
from kvsim.policy import Policy, Pool, Span
from kvsim.registry import register
from kvsim.window import Chunk

DEFAULT_WINDOW = 4096
"""Used where neither the model nor the user names a window: Mistral-7B's."""


@register
class SlidingWindowPolicy(BlockPolicy):
    """Keep only the last W tokens of windowed layers; the blocks behind are freed as the window moves.

    Windows come from the model's own layer pattern; layers are put into groups of equal size as vLLM's hybrid
    KV cache manager does (rule H6). `window` sets one window for every layer instead; a model without any
    windowed layer gets 4096 (which is another model: its outputs would change). `sinks` leading tokens are
    kept for ever (StreamingLLM, arXiv 2309.17453). Layers of chunked local attention (Llama 4) keep the tokens
    since the last multiple of their chunk, as vLLM's ChunkedLocalAttentionManager does. `kv_groups` names the
    groups as JSON, like `[{"type":"full"},{"type":"swa","window":64,"block_size":16}]`; a third type is
    `{"type":"chunked","window":8192}`. With `enable_prefix_caching` blocks are shared by content under
    `prefix_cache_retention_interval`: 0 keeps what a resend needs, R also every R tokens, None everything; a hit
    needs the blocks of the sinks, too.
    """

    name = "sliding-window"

    def __init__(
        self,
        *,
        block_size: int = 16,
        window: int | None = None,
        sinks: int = 0,
        kv_groups: str | None = None,
        enable_prefix_caching: bool = False,
        prefix_cache_retention_interval: int | None = 0,
        watermark: float = 0.0,
        scheduler_reserve_full_isl: bool = True,
    ) -> None:
        """Store the parameters; memory arrives with `reset`."""
        self.block_size = block_size
        self.window = window
        self.sinks = sinks
        self.kv_groups = kv_groups
        self.enable_prefix_caching = enable_prefix_caching
        self.prefix_cache_retention_interval = prefix_cache_retention_interval
        self.watermark = watermark
        self.scheduler_reserve_full_isl = scheduler_reserve_full_isl

    def counted(self) -> Policy | None:
        """Count blocks where none is shared, unless a subclass does something of its own."""
        return self.count_blocks() if type(self) is SlidingWindowPolicy else None

    def caches(self) -> bool:
        """Keep freed blocks findable when asked to."""
        return self.enable_prefix_caching

    def retention(self) -> int | None:
        """Return the interval at which windowed blocks are kept findable."""
        return self.prefix_cache_retention_interval

    def layout(self, pool: Pool) -> Layout:
        """Group the layers and cut the pool into blocks that fit any group."""
        if self.sinks < 0:
            raise InputError(f"sinks must be at least 0 tokens, got {self.sinks}")
        retention = self.prefix_cache_retention_interval
        if retention is not None and retention < 0:
            raise InputError(
                f"prefix_cache_retention_interval must be 0, tokens above 0, or none, got {retention}"
            )
        layers = sum(span.weight for span in pool.spans)
        if self.kv_groups is not None:
            groups = self._without_chunked_sinks(
                _explicit_groups(self.kv_groups, self.block_size, self.sinks)
            )
            attention = tuple(Span(group.span(), 1) for group in groups)
            unit = lcm(*(group.block_size for group in groups))
            return Layout(groups, _group_spans(groups), attention, unit, self.block_size * pool.token_bytes)
        spans = self._windowed_spans(pool.spans)
        kinds = layer_groups(spans)
        groups = self._without_chunked_sinks(
            Group(kind.window, self.block_size, self.sinks if kind.window else 0) for kind in kinds
        )
        size = kinds[0].layers + kinds[0].padding
        of_kind = {group.window: group.span() for group in groups}
        attention = tuple(Span(of_kind[span.window], span.weight) for span in spans)
        block_bytes = self.block_size * pool.token_bytes * size // layers
        return Layout(groups, _group_spans(groups), attention, self.block_size, max(1, block_bytes))

    def _without_chunked_sinks(self, groups: Iterable[Group]) -> tuple[Group, ...]:
        """Return the groups; sinks are defined for sliding windows only."""
        found = tuple(groups)
        if self.sinks and any(group.is_chunked for group in found):
            raise InputError(f"sinks must be 0 with chunked local attention, got {self.sinks}")
        return found

    def _windowed_spans(self, spans: tuple[Span, ...]) -> tuple[Span, ...]:
        if self.window is not None:
            if self.window < 1:
                raise InputError(f"window must be at least 1 token, got {self.window}")
            return (Span(self.window, sum(span.weight for span in spans)),)
        if all(span.window is None for span in spans):
            return (Span(DEFAULT_WINDOW, sum(span.weight for span in spans)),)
        return spans


def _group_spans(groups: tuple[Group, ...]) -> tuple[Span, ...]:
    """Return the slots a token takes: a block of any group is one page, whatever its block size."""
    unit = lcm(*(group.block_size for group in groups))
    weights: dict[int | None, int] = {}
    for group in groups:
        weights[group.span()] = weights.get(group.span(), 0) + unit // group.block_size
    return tuple(Span(window, weight) for window, weight in weights.items())


def _explicit_groups(text: str, block_size: int, sinks: int) -> tuple[Group, ...]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"kv_groups is not JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"kv_groups must be a list of groups, got {text!r}")
    groups = []
    for number, row in enumerate(rows):
        kind = row.get("type") if isinstance(row, dict) else None
        window, size = (
            (row.get("window"), row.get("block_size", block_size)) if isinstance(row, dict) else (None, 0)
        )
        if kind not in ("full", "swa", "chunked") or (kind != "full") != (window is not None):
            raise InputError(
                f'kv_groups[{number}] must be {{"type":"full"}}, {{"type":"swa","window":W}} or '
                f'{{"type":"chunked","window":C}}, got {row!r}'
            )
        if (
            not isinstance(size, int)
            or size < 1
            or (window is not None and (not isinstance(window, int) or window < 1))
        ):
            raise InputError(
                f"kv_groups[{number}]: window and block_size must be whole tokens ≥ 1, got {row!r}"
            )
        reach = Chunk(window) if window and kind == "chunked" else window
        groups.append(Group(reach, size, sinks if window else 0))
    return tuple(groups)
