"""What bounds a step, and which schedulers and orders there are; names are vLLM's."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.errors import InputError

SCHEDULING_POLICIES = ("fcfs", "priority", "sjf", "lpm")
SCHEDULERS = ("vllm", "static")
VLLM_VERSIONS = ("0.32", "0.33")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a step; names are vLLM's."""

    max_model_len: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    scheduling_policy: str = "fcfs"
    scheduler: str = "vllm"
    """vllm admits whenever there is room; static only when nothing runs, so a batch ends as one."""
    async_scheduling: bool = False
    width: int = 1
    """Sequences of a request: each counts for max_num_seqs, and takes a token of a decode step's budget."""
    vllm_version: str = "0.32"

    def __post_init__(self) -> None:
        """Refuse what vLLM refuses (rule L6)."""
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.long_prefill_token_threshold < 0:
            raise InputError(
                f"long_prefill_token_threshold must be ≥ 0, got {self.long_prefill_token_threshold}"
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InputError(
                f"max_num_batched_tokens must be at least max_num_seqs ({self.max_num_seqs}), "
                f"got {self.max_num_batched_tokens}"
            )
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise InputError(
                f"without chunked prefill max_num_batched_tokens must be at least max_model_len "
                f"({self.max_model_len}), got {self.max_num_batched_tokens}"
            )
        if self.width > self.max_num_seqs:
            raise InputError(
                f"max_num_seqs must be at least the {self.width} sequences of a request, got {self.max_num_seqs}"
            )
        if self.width > 1 and self.async_scheduling:
            raise InputError("async_scheduling is for requests of one sequence, without samples and beams")
        _one_of("scheduling_policy", self.scheduling_policy, SCHEDULING_POLICIES)
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        _one_of("vllm_version", self.vllm_version, VLLM_VERSIONS)

    @property
    def max_num_requests(self) -> int:
        """Return the most requests that may run at once."""
        return self.max_num_seqs // self.width

    def chunk_cap(self, requests: int) -> int:
        """Return the most tokens one request gets in a step that starts with so many (rule S6)."""
        threshold = self.long_prefill_token_threshold
        if not threshold or requests <= 1:
            return self.max_num_batched_tokens
        if self.long_prefill_token_threshold_adaptive:
            return max(threshold, self.max_num_batched_tokens // requests)
        return threshold


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
