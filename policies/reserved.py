"""Blocks for the outputs that a request may still ask for, taken at admission: how far to over-commit."""

from __future__ import annotations

from math import ceil

from kvsim.errors import InputError
from kvsim.policies.block_policy import BlockPolicy
from kvsim.policy import Lease, Match, Policy, Pool
from kvsim.registry import register
from kvsim.request import Sequence


@register
class ReservedPolicy(BlockPolicy):
    """Paged, with blocks for the prompt and a share of the longest output taken at admission.

    A server never knows how long an answer gets, only its limit: `max_tokens`, the most output tokens of a request
    (none: up to max_model_len). `reserve` says how much of it gets blocks beforehand:

        reservation = min(prompt + ⌈reserve · max_tokens⌉, max_model_len, whole pool)

    With 1 nobody is preempted as long as outputs keep to `max_tokens`, and what they leave unused is waste: that is
    Hugging Face TGI's router (prompt + max_new_tokens) and TensorRT-LLM's GUARANTEED_NO_EVICT. With 0 nothing is
    taken beforehand and a full pool preempts by recompute: that is `paged`, vLLM's rule, and TensorRT-LLM's
    MAX_UTILIZATION. Between, the pool is over-committed: whoever outgrows the reservation goes on block by block.
    `block_size`, `watermark` and `scheduler_reserve_full_isl` are those of `paged`.
    """

    name = "reserved"

    def __init__(
        self,
        *,
        reserve: float = 1.0,
        max_tokens: int | None = None,
        block_size: int = 16,
        watermark: float = 0.0,
        scheduler_reserve_full_isl: bool = True,
    ) -> None:
        """Store the parameters; memory arrives with `reset`."""
        self.reserve = reserve
        self.max_tokens = max_tokens
        self.block_size = block_size
        self.watermark = watermark
        self.scheduler_reserve_full_isl = scheduler_reserve_full_isl

    def reset(self, pool: Pool) -> None:
        """Cut the memory into blocks."""
        if not 0 <= self.reserve <= 1:
            raise InputError(f"reserve must be a share in [0, 1], got {self.reserve}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, got {self.max_tokens}")
        super().reset(pool)
        self._most_tokens = min(pool.max_model_len, self._blocks.usable * self.block_size)
        self._outputs = pool.max_model_len if self.max_tokens is None else self.max_tokens
        self._longest = pool.max_model_len

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Take the whole reservation, or nothing."""
        return super().admit(sequence, match, max(tokens, self.reservation(sequence)))

    def counted(self) -> Policy | None:
        """Count blocks where nothing is reserved, unless a subclass does something of its own."""
        return self.count_blocks() if type(self) is ReservedPolicy and self.reserve == 0 else None

    def reservation(self, sequence: Sequence) -> int:
        """Return the tokens that get blocks at admission; 0 where nothing is taken beforehand."""
        if self.reserve == 0:
            return 0
        prompt = sequence.prompt_tokens
        ahead = ceil(self.reserve * min(self._outputs, self._longest - prompt))
        return min(max(prompt + ahead, sequence.tokens), self._most_tokens)
