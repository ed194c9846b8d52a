"""What a vLLM server would have counted, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvsim.reports.vllm_metrics import Readings

if TYPE_CHECKING:
    from kvsim.engine import Simulation
    from kvsim.ledger import Slots
    from kvsim.replica import StepRecord


class _Request:
    """A request that has been scheduled and is not done."""

    __slots__ = ("arrival", "cached", "first_token", "last_token", "output", "prompt", "scheduled")

    def __init__(self, arrival: float, scheduled: float, prompt: int, cached: int) -> None:
        self.arrival = arrival
        self.scheduled = scheduled
        self.prompt = prompt
        self.cached = cached
        self.first_token: float | None = None
        self.last_token = 0.0
        self.output = 0


class ServerMetrics:
    """Keep readings: `begin` a step, then `end` it, in order."""

    def __init__(self, simulation: Simulation, readings: Readings) -> None:
        """Read requests from a simulation that is about to run."""
        self.readings = readings
        self._simulation = simulation
        self._requests: dict[int, _Request] = {}
        self._decoding: set[int] = set()
        self._width = simulation.limits.width

    def stand(self, running: int, waiting: int, slots: Slots) -> None:
        """Set the gauges."""
        readings, capacity = self.readings, sum(slots)
        readings.set("vllm:num_requests_running", running)
        readings.set("vllm:num_requests_waiting", waiting)
        readings.set("vllm:kv_cache_usage_perc", (slots.live + slots.reserved + slots.internal) / capacity)
        for use, amount in slots._asdict().items():
            readings.set("kvsim:kv_cache_share", amount / capacity, use)

    def begin(self, record: StepRecord) -> None:
        """Take in what scheduling a step changes."""
        readings = self.readings
        self.stand(record.running, record.waiting, record.slots)
        for job in record.planned.preempted:
            self._decoding.discard(job.index)
            readings.add("vllm:num_preemptions", 1)
        for row, found in record.admitted:
            if row not in self._requests:
                self._enter(row, record.planned.start, found)

    def end(self, record: StepRecord) -> None:
        """Take in what comes out of a step: tokens, then whoever is done."""
        planned = record.planned
        sampled = {job.index for job in planned.sampled}
        prompts = outputs = 0
        for row, _ in record.scheduled:
            if row in sampled or row in self._decoding:
                outputs += self._width
                prompts += self._token(row, planned.end)
        self._decoding |= sampled
        if record.scheduled:
            self.readings.observe("vllm:iteration_tokens_total", prompts + outputs)
        self.readings.add("vllm:generation_tokens", outputs)
        for job in planned.finished:
            self._decoding.discard(job.index)
            self._done(job.index, planned.end)

    def _enter(self, row: int, start: float, found: int) -> None:
        arrival = self._simulation.outcomes.arrival[row]
        prompt = int(self._simulation.workload.prompt_tokens[row])
        self._requests[row] = _Request(arrival, start, prompt, found)
        self.readings.add("vllm:prefix_cache_queries", prompt)
        self.readings.add("vllm:prefix_cache_hits", found)

    def _token(self, row: int, at: float) -> int:
        """Count a token; return the length of a prompt whose first one it is, else 0."""
        request, readings = self._requests[row], self.readings
        request.output += 1
        if request.first_token is not None:
            readings.observe("vllm:inter_token_latency_seconds", at - request.last_token)
            request.last_token = at
            return 0
        request.first_token = request.last_token = at
        readings.observe("vllm:time_to_first_token_seconds", at - request.arrival)
        readings.add("vllm:prompt_tokens", request.prompt)
        readings.add("vllm:prompt_tokens_cached", request.cached)
        readings.add("vllm:prompt_tokens_by_source", request.cached, "local_cache_hit")
        readings.add("vllm:prompt_tokens_by_source", request.prompt - request.cached, "local_compute")
        return request.prompt

    def _done(self, row: int, at: float) -> None:
        request, readings = self._requests.pop(row), self.readings
        assert request.first_token is not None
        decode = at - request.first_token
        asked = int(self._simulation.workload.output_tokens[row])
        readings.add("vllm:request_success", 1, "stop" if request.output == asked else "length")
        for name, amount in (
            ("e2e_request_latency_seconds", at - request.arrival),
            ("request_queue_time_seconds", request.scheduled - request.arrival),
            ("request_inference_time_seconds", at - request.scheduled),
            ("request_prefill_time_seconds", request.first_token - request.scheduled),
            ("request_decode_time_seconds", decode),
            ("request_time_per_output_token_seconds", decode / max(1, request.output - 1)),
            ("request_prompt_tokens", request.prompt),
            ("request_generation_tokens", request.output),
            ("request_max_num_generation_tokens", request.output),
            ("request_prefill_kv_computed_tokens", request.prompt - request.cached),
        ):
            readings.observe(f"vllm:{name}", amount)
