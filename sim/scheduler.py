"""Who runs in a step: limits, and the order of the waiting queue (vLLM's rules S and E)."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from kvsim.errors import InputError
from kvsim.job import Job

SCHEDULING_POLICIES = ("fcfs", "priority", "sjf")
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
    vllm_version: str = "0.32"

    def __post_init__(self) -> None:
        """Refuse what vLLM refuses (rule L6)."""
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens"):
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
        _one_of("scheduling_policy", self.scheduling_policy, SCHEDULING_POLICIES)
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        _one_of("vllm_version", self.vllm_version, VLLM_VERSIONS)

    def chunk_cap(self, requests: int) -> int:
        """Return the most tokens one request gets in a step that starts with so many (rule S6)."""
        threshold = self.long_prefill_token_threshold
        if not threshold or requests <= 1:
            return self.max_num_batched_tokens
        if self.long_prefill_token_threshold_adaptive:
            return max(threshold, self.max_num_batched_tokens // requests)
        return threshold


class WaitingQueue(ABC):
    """Requests that do not run, in the order in which they will be tried."""

    @abstractmethod
    def add(self, job: Job) -> None:
        """Queue a new arrival."""

    @abstractmethod
    def put_back(self, job: Job) -> None:
        """Queue a preempted request (rule E2)."""

    @abstractmethod
    def head(self) -> Job | None:
        """Return the next request to try."""

    @abstractmethod
    def take(self) -> Job:
        """Remove and return the head."""

    @abstractmethod
    def remove(self, job: Job) -> None:
        """Remove a request wherever it is."""

    @abstractmethod
    def __len__(self) -> int:
        """Count the waiting."""

    @abstractmethod
    def __iter__(self) -> Iterator[Job]:
        """Go through the waiting in no particular order."""

    def victim(self, running: dict[int, Job]) -> Job:
        """Choose whom to preempt: the most recently admitted (rule E1)."""
        return next(reversed(running.values()))


class FirstCome(WaitingQueue):
    """In order of arrival; preempted requests go to the front."""

    def __init__(self) -> None:
        """Start empty."""
        self._jobs: deque[Job] = deque()

    def add(self, job: Job) -> None:
        """Queue behind all others."""
        self._jobs.append(job)

    def put_back(self, job: Job) -> None:
        """Queue before all others."""
        self._jobs.appendleft(job)

    def head(self) -> Job | None:
        """Return the one that has waited longest."""
        return self._jobs[0] if self._jobs else None

    def take(self) -> Job:
        """Remove and return the head."""
        return self._jobs.popleft()

    def remove(self, job: Job) -> None:
        """Remove a request wherever it is."""
        self._jobs.remove(job)

    def __len__(self) -> int:
        """Count the waiting."""
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        """Go through the queue."""
        return iter(self._jobs)


class Ordered(WaitingQueue):
    """By a key that a request keeps; preempted ones go back to their place."""

    def __init__(self) -> None:
        """Start empty."""
        self._heap: list[tuple[tuple[float, ...], Job]] = []

    @abstractmethod
    def key(self, job: Job) -> tuple[float, ...]:
        """Return what the order goes by, unique for each request."""

    def add(self, job: Job) -> None:
        """Queue at its place."""
        heapq.heappush(self._heap, (self.key(job), job))

    def put_back(self, job: Job) -> None:
        """Queue at its place."""
        self.add(job)

    def head(self) -> Job | None:
        """Return the one with the smallest key."""
        return self._heap[0][1] if self._heap else None

    def take(self) -> Job:
        """Remove and return the head."""
        return heapq.heappop(self._heap)[1]

    def remove(self, job: Job) -> None:
        """Remove a request wherever it is."""
        self._heap.remove((self.key(job), job))
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        """Count the waiting."""
        return len(self._heap)

    def __iter__(self) -> Iterator[Job]:
        """Go through the waiting in no particular order."""
        return (job for _, job in self._heap)


class ByPriority(Ordered):
    """Smallest (priority, arrival, row) first; the victim is the largest (priority, arrival)."""

    def key(self, job: Job) -> tuple[float, ...]:
        """Order by priority, then age (rule S4)."""
        return (job.priority, job.arrival, job.index)

    def victim(self, running: dict[int, Job]) -> Job:
        """Choose the least urgent, of equals the first in the list (rule E3)."""
        return max(running.values(), key=lambda job: (job.priority, job.arrival))


class ShortestFirst(Ordered):
    """Shortest prompt first, then arrival: output lengths are not known."""

    def key(self, job: Job) -> tuple[float, ...]:
        """Order by prompt length, then age."""
        return (job.prompt_tokens, job.arrival, job.index)


def waiting_queue(scheduling_policy: str) -> WaitingQueue:
    """Return an empty queue for one of SCHEDULING_POLICIES."""
    queues: dict[str, type[WaitingQueue]] = {"fcfs": FirstCome, "priority": ByPriority, "sjf": ShortestFirst}
    return queues[scheduling_policy]()


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
