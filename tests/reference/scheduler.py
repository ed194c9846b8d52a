"""Rules S and E, L3, and Y1 and Y2: who runs in one step, who is admitted, who is preempted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reference.contiguous import ContiguousMemory
from reference.paged import PagedMemory
from reference.request import Request
from reference.samples import SampledMemory


@dataclass
class Step:
    """One step: what was decided, and when it runs."""

    scheduled_at: float
    budget: int
    cap: int | None
    sched: list[tuple[Request, int]] = field(default_factory=list)
    new: list[tuple[Request, int]] = field(default_factory=list)
    preempt: list[Request] = field(default_factory=list)
    samples: list[bool] = field(default_factory=list)
    """Per scheduled request: whether it gets an output."""
    lives: list[int] = field(default_factory=list)
    """Per scheduled request: its preemptions when the step was scheduled."""
    end: float = 0.0
    log: dict[str, Any] = field(default_factory=dict)


class Scheduler:
    """The running list, the waiting queue, and the memory they share."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Start with nobody there. Without a `memory` in the configuration it is paged."""
        self.config = config
        self.samples: int = config["samples"]
        self.memory: ContiguousMemory | PagedMemory
        if config["memory"] is not None:
            self.memory = ContiguousMemory(config)
        else:
            self.memory = PagedMemory(config) if self.samples == 1 else SampledMemory(config)
        self.running: list[Request] = []
        self.waiting: list[Request] = []

    def queue(self, request: Request) -> None:
        """Put an arrived request at the end of the queue, or in its place."""
        request.status = "waiting"
        self.waiting.append(request)
        self.sort_waiting()

    def remove(self, request: Request) -> None:
        """Take out a request that has finished; Y5: it may be in `waiting`, with nothing to free."""
        if request.status == "running":
            self.running.remove(request)
            self.memory.release(request)
        else:
            self.waiting.remove(request)

    def schedule(self, now: float) -> Step:
        """S1–S3: running requests first; waiting ones only if nobody was preempted."""
        step = Step(now, self.config["max_num_batched_tokens"], self.cap())
        may_admit = self.config["batching"] != "static" or not self.running
        self.schedule_running(step)
        if may_admit and not step.preempt:
            self.admit_waiting(step)
        for request, count in step.sched:
            request.computed += count
            request.sched_tokens += count * self.sequences(request, request.computed - count)
            samples = request.computed == request.expected_tokens
            request.on_the_way += samples
            step.samples.append(samples)
            step.lives.append(request.preemptions)
        return step

    def sequences(self, request: Request, computed: int) -> int:
        """N1: how many sequences compute what comes after so many tokens: one the prompt, `samples` the rest."""
        return self.samples if computed >= request.prompt else 1

    def cap(self) -> int | None:
        """S6: the most tokens one request gets in the step that starts now; None for no cap."""
        threshold: int = self.config["long_prefill_token_threshold"]
        present = len(self.running) + len(self.waiting)
        if threshold <= 0 or present <= 1:
            return None
        if self.config["long_prefill_token_threshold_adaptive"]:
            budget: int = self.config["max_num_batched_tokens"]
            return max(threshold, budget // present)
        return threshold

    def schedule_running(self, step: Step) -> None:
        """S2, Y2: give each running request its tokens, in list order, while budget is left.

        E5: a request that preempts itself ends this in 0.32, not in 0.33.
        """
        for request in list(self.running):
            if step.budget == 0:
                break
            if request.status != "running" or request.expected_tokens == request.last_tokens:
                continue
            count = request.expected_tokens - request.computed
            if step.cap is not None:
                count = min(count, step.cap)
            times = self.sequences(request, request.computed)
            if times > step.budget:
                continue  # N3: all of its sequences get a token, or none.
            count = min(count, step.budget)
            if not self.make_room(step, request, count):
                if self.config["vllm_version"] == "0.32":
                    break
                continue
            step.sched.append((request, count))
            step.budget -= count * times
            self.memory.give_hashes(request, min(request.computed + count, request.tokens))

    def make_room(self, step: Step, request: Request, count: int) -> bool:
        """E1: allocate, preempting until it fits; False if the request had to preempt itself."""
        while not self.memory.grow(request, count):
            victim = self.victim()
            self.take_back(step, victim)
            self.preempt(victim)
            step.preempt.append(victim)
            if victim is request:
                return False
        return True

    def victim(self) -> Request:
        """E1, E3: the last of running; with `priority` the first with the largest (priority, arrival)."""
        if self.config["policy"] == "priority":
            return max(self.running, key=lambda request: (request.priority, request.arrival or 0.0))
        return self.running[-1]

    def take_back(self, step: Step, victim: Request) -> None:
        """E4: a victim that was already scheduled gives its tokens back to the budget."""
        times = self.sequences(victim, victim.computed)
        step.budget += sum(count * times for request, count in step.sched if request is victim)
        step.sched = [(request, count) for request, count in step.sched if request is not victim]

    def preempt(self, victim: Request) -> None:
        """E2: the victim frees its blocks, keeps its outputs, and waits in front or in its place."""
        self.running.remove(victim)
        if isinstance(self.memory, SampledMemory):
            self.memory.put_away(victim)
        self.memory.release(victim)
        victim.thrown_away.append(victim.computed)
        victim.preemptions += 1
        victim.computed = victim.ended = victim.on_the_way = 0
        victim.status = "waiting"
        self.waiting.insert(0, victim)
        self.sort_waiting()

    def sort_waiting(self) -> None:
        """S4: by (priority, arrival, row), by (prompt, arrival, row), or as the queue is."""
        if self.config["policy"] == "priority":
            self.waiting.sort(key=lambda request: (request.priority, request.arrival, request.index))
        elif self.config["policy"] == "sjf":
            self.waiting.sort(key=lambda request: (request.prompt, request.arrival, request.index))

    def places(self) -> int:
        """L3: how long `running` may get."""
        active: int | None = self.config["max_num_active_seqs"]
        seqs: int = self.config["max_num_seqs"] if active is None else active
        return seqs // self.samples

    def admit_waiting(self, step: Step) -> None:
        """S4: admit from the front until the budget, the places or the memory end it."""
        while step.budget > 0 and self.waiting and len(self.running) < self.places():
            if not self.admit(step, self.waiting[0]):
                break

    def admit(self, step: Step, request: Request) -> bool:
        """S5, S8, E6: look up, cut, pass the gate, allocate; all or nothing."""
        hit = self.memory.lookup(request)
        times = self.sequences(request, hit.tokens)
        if times > step.budget:
            return False
        count = request.tokens - hit.tokens
        if step.cap is not None:
            count = min(count, step.cap)
        if not self.config["enable_chunked_prefill"] and count > step.budget:
            return False
        count = min(count, step.budget)
        if not self.memory.admit(request, hit, count, others_run=bool(self.running)):
            return False
        self.waiting.remove(request)
        self.running.append(request)
        request.status = "running"
        request.computed = request.ended = hit.tokens
        request.admissions.append(hit.tokens)
        request.restored += hit.tokens if self.samples > 1 else 0
        step.sched.append((request, count))
        step.new.append((request, hit.tokens))
        step.budget -= count * times
        self.memory.give_hashes(request, min(request.computed + count, request.tokens))
        return True
