"""S9, L1, L2, Y and the clock: when steps run, and what their ends bring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reference.contents import Row
from reference.request import Request, make_requests
from reference.scheduler import Scheduler, Step

DEFAULTS: dict[str, Any] = {
    "groups": [{"type": "full"}],
    "enable_prefix_caching": False,
    "enable_chunked_prefill": True,
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "watermark": 0.0,
    "scheduler_reserve_full_isl": True,
    "policy": "fcfs",
    "prefix_cache_retention_interval": 0,
    "async_scheduling": False,
    "hash_block_tokens": 512,
    "max_num_active_seqs": None,
    "batching": "continuous",
    "memory": None,
    "reject_never_fits": False,
    "samples": 1,
    "parents": None,
    "vllm_version": "0.32",
    "cost_a": 2.0**-7,
    "cost_b": 2.0**-17,
    "cost_c": 2.0**-26,
}

MAX_STEPS = 1_000_000
"""L5: without the gate, a pool that is too small keeps an engine busy for ever."""


@dataclass
class Log:
    """What a run did: the steps and, in row order, the requests."""

    steps: list[dict[str, Any]]
    requests: list[dict[str, Any]]
    engine: Engine
    """The engine as it is at the end."""


class Observer:
    """Called by the engine whenever its state will hold for some time; this one looks away."""

    def step(self, engine: Engine, step: Step) -> None:
        """See the state during a step: scheduled, priced and logged, not ended."""

    def idle(self, engine: Engine, until: float) -> None:
        """See the state from `engine.clock`, when nothing can run, until the next arrival."""


class Engine:
    """The loop and all it knows."""

    def __init__(self, rows: list[Row], config: dict[str, Any], detail: bool, observe: Observer) -> None:
        """Start with nothing sent."""
        self.config = {**DEFAULTS, **config}
        self.requests = make_requests(rows, self.config["max_model_len"])
        self.scheduler = Scheduler(self.config)
        self.memory = self.scheduler.memory
        self.under_way: list[Step] = []
        self.clock = 0.0
        self.last_end = 0.0
        self.steps: list[Step] = []
        self.detail = detail
        self.observe = observe

    def run(self) -> Log:
        """Go on until nothing is under way and nobody will come; the rest is stuck."""
        depth = 2 if self.config["async_scheduling"] else 1
        while True:
            assert len(self.steps) < MAX_STEPS, "this configuration seems to go on for ever"
            self.take_arrivals()
            step = self.scheduler.schedule(self.clock)
            if step.sched or step.preempt:
                self.start(step)
                if len(self.under_way) < depth:
                    continue
            if self.under_way:
                self.end_step(self.under_way.pop(0))
            elif (arrival := self.next_arrival()) is not None:
                self.observe.idle(self, arrival)
                self.clock = arrival
            else:
                break
        for request in self.requests:
            if request.status not in ("finished", "rejected"):
                request.status = "stuck"
        return Log([step.log for step in self.steps], [r.log_row() for r in self.requests], self)

    def next_arrival(self) -> float | None:
        """Return when the next request comes, as far as is known."""
        times = [r.arrival for r in self.requests if r.status == "unsent" and r.arrival is not None]
        return min(times, default=None)

    def take_arrivals(self) -> None:
        """Queue all that has arrived, in (arrival, row) order; refuse what cannot be served."""
        while (time := self.next_arrival()) is not None and time <= self.clock:
            request = next(r for r in self.requests if r.status == "unsent" and r.arrival == time)
            if self.is_refused(request):
                request.status = "rejected"
                self.send_children(request, time)
            else:
                self.scheduler.queue(request)

    def is_refused(self, request: Request) -> bool:
        """L1, and on wish L5's case: a request that the empty memory could not hold."""
        if not 0 < request.prompt < request.max_model_len:
            return True
        return bool(self.config["reject_never_fits"]) and self.memory.never_fits(request)

    def send_children(self, parent: Request, time: float) -> None:
        """Closed loop: rows that wait for this one are sent `think` seconds after its end."""
        for request in self.requests:
            if request.row.get("parent", -1) == parent.index:
                request.arrival = time + float(request.row["think"])

    def start(self, step: Step) -> None:
        """Price the step, set its times, and log it: t1 = t0 + (a + b·tokens + c·ctx), or t0 if empty."""
        cost = [self.config[key] for key in ("cost_a", "cost_b", "cost_c")]
        # N2: a chunk of the prompt is computed once, everything after it by each sequence.
        times = [self.scheduler.sequences(r, r.computed - count) for r, count in step.sched]
        tokens = sum(count * each for (_, count), each in zip(step.sched, times, strict=True))
        context = sum(r.computed * each for (r, _), each in zip(step.sched, times, strict=True))
        copying = self.memory.seconds()
        begin = max(step.scheduled_at, self.last_end)
        seconds = cost[0] + cost[1] * tokens + cost[2] * context if step.sched else 0.0
        step.end = begin + (seconds + copying)
        self.last_end = step.end
        for request, _ in step.new:
            request.first_sched = begin if request.first_sched is None else request.first_sched
        step.log = {
            "step": len(self.steps),
            "t0": begin,
            "t1": step.end,
            "sched": [
                [request.index, count * each]
                for (request, count), each in zip(step.sched, times, strict=True)
            ],
            "new": [[request.index, hit] for request, hit in step.new],
            "preempt": [request.index for request in step.preempt],
            "run": len(self.scheduler.running),
            "wait": len(self.scheduler.waiting),
            "blk": self.memory.in_use,
            "ctx": context,
        }
        if self.config["async_scheduling"]:
            step.log["ts"] = step.scheduled_at
        if self.detail:
            step.log["tables"] = self.memory.detail([request for request, _ in step.sched])
        self.steps.append(step)
        self.under_way.append(step)
        self.observe.step(self, step)

    def end_step(self, step: Step) -> None:
        """S9, Y4, Y5: hand out the outputs in scheduling order, free what finishes, move the clock.

        Y4 in full: an output's arrival makes findable what is full below `computed` less the outputs
        still on the way, so a block whose last token is the input of a step under way is not yet.
        """
        self.clock = max(self.clock, step.end)
        finished = []
        for (request, count), samples, life in zip(step.sched, step.samples, step.lives, strict=True):
            same_life = request.preemptions == life
            if same_life:
                request.ended += count
            if not samples:
                continue
            request.outputs += 1
            request.output_times.append(step.end)
            if same_life:
                request.on_the_way -= 1
                if self.config["async_scheduling"]:
                    self.memory.give_hashes(request, request.computed - request.on_the_way)
            if request.tokens == request.last_tokens:
                self.finish(request, step.end)
                finished.append(request.index)
        step.log["fin"] = finished
        step.log["blk_end"] = self.memory.in_use
        if self.detail:
            step.log.update(self.memory.queue_detail())

    def finish(self, request: Request, time: float) -> None:
        """L2: the request has all its outputs."""
        self.scheduler.remove(request)
        request.status = "finished"
        request.finish = time
        self.send_children(request, time)


def run(
    rows: list[Row], config: dict[str, Any], detail: bool = False, observe: Observer | None = None
) -> Log:
    """Run the rows under a configuration; keys it lacks have vLLM's defaults."""
    return Engine(rows, config, detail, observe or Observer()).run()
