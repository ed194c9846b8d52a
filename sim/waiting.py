"""The order in which waiting requests are tried (vLLM's rules S4, E1 to E3; SGLang's lpm)."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator

from kvsim.job import Job
from kvsim.policy import Match

MOST_SORTED = 128
"""Waiting requests up to which lpm looks all of them up; with more of them it is fcfs, as in SGLang."""

Lookup = Callable[[Job], Match]
"""`Policy.lookup`."""


class WaitingQueue(ABC):
    """Requests that do not run, in the order in which they will be tried."""

    follows_cache = False
    """Whether what is cached decides the order, so that a new arrival may have to be tried before the head."""

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

    def arrange(self, lookup: Lookup) -> None:
        """Put the waiting in order before some are admitted, if that depends on what is cached."""
        del lookup

    def victim(self, running: dict[int, Job]) -> Job:
        """Choose whom to preempt: the most recently admitted (rule E1)."""
        return next(reversed(running.values()))


class FirstCome(WaitingQueue):
    """In order of arrival; preempted requests go to the front."""

    def __init__(self) -> None:
        """Start empty."""
        self.jobs: deque[Job] = deque()

    def add(self, job: Job) -> None:
        """Queue behind all others."""
        self.jobs.append(job)

    def put_back(self, job: Job) -> None:
        """Queue before all others."""
        self.jobs.appendleft(job)

    def head(self) -> Job | None:
        """Return the one that has waited longest."""
        return self.jobs[0] if self.jobs else None

    def take(self) -> Job:
        """Remove and return the head."""
        return self.jobs.popleft()

    def remove(self, job: Job) -> None:
        """Remove a request wherever it is."""
        self.jobs.remove(job)

    def __len__(self) -> int:
        """Count the waiting."""
        return len(self.jobs)

    def __iter__(self) -> Iterator[Job]:
        """Go through the queue."""
        return iter(self.jobs)


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


class LongestPrefix(FirstCome):
    """Most tokens found in the cache first, then as fcfs: SGLang's lpm (RadixAttention, arXiv 2312.07104).

    The order is taken from the policy's lookup before each round of admissions, as SGLang's `calc_priority` does; not
    while the first in line is known to be refused. A request of which nothing is cached may be overtaken for as
    long as others with more keep coming. What guards it is SGLang's rule: with more than 128 waiting the order is fcfs,
    so that the one that has waited longest is next.
    """

    follows_cache = True

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self._order = self.jobs
        """The line as it was last arranged; `jobs` keeps who came first."""

    def arrange(self, lookup: Lookup) -> None:
        """Sort by what is found now."""
        self._order = self.jobs
        if 1 < len(self.jobs) <= MOST_SORTED:
            self._order = deque(sorted(self.jobs, key=lambda job: -lookup(job).tokens))

    def add(self, job: Job) -> None:
        """Queue behind all others until the next arrangement."""
        super().add(job)
        if self._order is not self.jobs:
            self._order.append(job)

    def put_back(self, job: Job) -> None:
        """Queue before all others until the next arrangement."""
        super().put_back(job)
        if self._order is not self.jobs:
            self._order.appendleft(job)

    def head(self) -> Job | None:
        """Return the first in line."""
        return self._order[0] if self._order else None

    def take(self) -> Job:
        """Remove and return the head."""
        job = self._order.popleft()
        if self._order is not self.jobs:
            self.jobs.remove(job)
        return job

    def remove(self, job: Job) -> None:
        """Remove a request wherever it is."""
        super().remove(job)
        if self._order is not self.jobs:
            self._order.remove(job)


def waiting_queue(scheduling_policy: str) -> WaitingQueue:
    """Return an empty queue for one of `kvsim.scheduler.SCHEDULING_POLICIES`."""
    queues: dict[str, type[WaitingQueue]] = {
        "fcfs": FirstCome,
        "priority": ByPriority,
        "sjf": ShortestFirst,
        "lpm": LongestPrefix,
    }
    return queues[scheduling_policy]()
