"""One request's life as text: when it came, what it waited for, who threw it out, and when it was done."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

from kvsim.errors import InputError
from kvsim.explain_waits import REASONS

if TYPE_CHECKING:
    from kvsim.explain import Explanation
    from kvsim.explain_preemptions import Preemption


class Event(NamedTuple):
    """Something that happened to the request."""

    time: float
    """Seconds."""
    text: str


def life(explanation: Explanation, row: int) -> list[Event]:
    """Return what happened to the request in this row of the trace, in order."""
    requests = explanation.result.requests
    if not 0 <= row < len(requests):
        allowed = (
            f"a row of the trace, 0 to {len(requests) - 1}"
            if len(requests)
            else "in the trace, which is empty"
        )
        raise InputError(f"request must be {allowed}, got {row}")
    facts = {str(name): value for name, value in requests.iloc[row].items()}
    mine = [preemption for preemption in explanation.preemptions if preemption.request == row]
    events = [*_first(explanation, row, facts)]
    for preemption in mine:
        events += _preemption(preemption)
    events += [*_waits(explanation, row), *_last(explanation, facts)]
    # Sorting is stable: what happens at one time stays in the order in which it is listed here.
    return sorted(events, key=lambda event: event.time)


def life_text(explanation: Explanation, row: int) -> str:
    """Return the life as lines of time and text."""
    events = life(explanation, row)
    width = max(len(f"{event.time:,.3f}") for event in events)
    lines = [f"{event.time:>{width},.3f} s  {event.text}" for event in events]
    return "\n".join([f"Request {row}", *lines])


def _first(explanation: Explanation, row: int, facts: dict[str, Any]) -> Iterator[Event]:
    asked = f"{facts['prompt_tokens']:,} prompt tokens, {facts['output_tokens']:,} output tokens"
    yield Event(facts["arrival_s"], f"comes with {asked}")
    if isnan(facts["first_scheduled_s"]):
        return
    yield Event(facts["first_scheduled_s"], f"is scheduled{_found(explanation, row)}")
    if not isnan(facts["first_token_s"]):
        yield Event(facts["first_token_s"], f"has its first token, {facts['ttft_ms']:,.1f} ms after it came")


def _found(explanation: Explanation, row: int) -> str:
    for lookup in explanation.lookups or ():
        if lookup.request == row:
            return (
                f": {lookup.hit:,} tokens of the prompt are in the cache; {lookup.evicted:,} were evicted, "
                f"{lookup.never_seen:,} never seen, {lookup.too_short:,} too short for a block"
            )
    return ""


def _waits(explanation: Explanation, row: int) -> Iterator[Event]:
    for wait in explanation.waits:
        if wait.request == row:
            took = (wait.end - wait.start) * 1e3
            yield Event(wait.start, f"waits {took:,.1f} ms ({wait.reason}: {REASONS[wait.reason]})")


def _preemption(preemption: Preemption) -> Iterator[Event]:
    by = "itself" if preemption.by == preemption.request else f"request {preemption.by}"
    yield Event(preemption.time, f"is preempted by {by}: KV of {preemption.lost_tokens:,} tokens is lost")
    if preemption.back is None or preemption.caught_up is None:
        return
    again = f"{preemption.found_tokens:,} tokens are still there, {preemption.recomputed_tokens:,} are computed again"
    yield Event(preemption.back, f"is scheduled again: {again}")
    if preemption.recomputed_tokens:
        took = (preemption.caught_up - preemption.back) * 1e3
        share = preemption.step_seconds * 1e3
        text = f"is where it was, after {took:,.1f} ms of steps, {share:,.1f} ms of them for what was lost"
        yield Event(preemption.caught_up, text)


def _last(explanation: Explanation, facts: dict[str, Any]) -> Iterator[Event]:
    status = facts["status"]
    if status == "rejected":
        yield Event(facts["arrival_s"], f"is rejected: {facts['reason']}")
    elif status == "unfinished":
        end = explanation.result.summary["duration"] + float(explanation.result.requests["arrival_s"].min())
        yield Event(max(end, facts["arrival_s"]), "is not finished when the run ends")
    else:
        tpot = "" if isnan(facts["tpot_ms"]) else f", {facts['tpot_ms']:,.1f} ms a token after the first"
        text = f"is finished, {facts['e2el_ms']:,.1f} ms after it came{tpot}"
        yield Event(facts["finish_s"], text)
