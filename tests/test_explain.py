"""Why requests waited, what preemptions cost, why prefixes were missed."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from small_runs import prepare, trace
from tight_runs import Case, cases, run_watched, simulation_of, simulations

from kvsim.engine import COMPLETED, Outcomes, Simulation
from kvsim.explain import Explanation, Watch, explain
from kvsim.explain_life import life, life_text
from kvsim.explain_prefix import Lookup
from kvsim.explain_waits import Wait
from kvsim.result import Result
from kvsim.summary import Columns, summarise
from kvsim.traces import Trace
from kvsim.traces.generate import generate


def watched(simulation: Simulation) -> Explanation:
    """Run a simulation and explain it."""
    watch = Watch()
    watch.attach(simulation)
    simulation.run()
    return watch.finish(Result.of(simulation, {"policy": simulation.replica.policy.name}))


def small(work: Trace, policy: str = "paged:block_size=4", **settings: Any) -> Explanation:
    """Explain a run of steps of a second."""
    return watched(prepare(work, policy, **settings))


def stretches(waits: list[Wait]) -> list[tuple[int, str, float, float]]:
    """Return waits as (request, reason, start, end), a request after the other."""
    return sorted((wait.request, wait.reason, wait.start, wait.end) for wait in waits)


# -- waits ------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(simulation=simulations())
def test_waits_add_up_to_the_queueing_time_exactly(simulation: Simulation) -> None:
    explanation = watched(simulation)

    waits: dict[tuple[int, int], list[Wait]] = defaultdict(list)
    for wait in explanation.waits:
        waits[wait.request, wait.preemptions].append(wait)
    for found in waits.values():
        assert all(one.end == other.start for one, other in pairwise(found))
        assert all(wait.start < wait.end for wait in found)
    outcomes = simulation.outcomes
    for row in range(len(simulation.workload)):
        if outcomes.status[row] == COMPLETED:
            total = sum((Fraction(w.end) - Fraction(w.start) for w in waits[row, 0]), Fraction(0))
            assert total == Fraction(outcomes.first_scheduled[row]) - Fraction(outcomes.arrival[row])


@settings(max_examples=100)
@given(simulation=simulations())
def test_requests_wait_for_as_long_as_they_are_out_after_a_preemption(simulation: Simulation) -> None:
    explanation = watched(simulation)

    out: dict[int, Fraction] = defaultdict(Fraction)
    for wait in explanation.waits:
        if wait.preemptions:
            out[wait.request] += Fraction(wait.end) - Fraction(wait.start)
    for preemption in explanation.preemptions:
        if preemption.back is not None:
            out[preemption.request] -= Fraction(preemption.back) - Fraction(preemption.time)
    assert not any(out.values())


@settings(max_examples=100)
@given(simulation=simulations())
def test_only_the_first_in_line_waits_for_a_bound(simulation: Simulation) -> None:
    watch = Watch()
    watch.attach(simulation)
    steps = run_watched(simulation)
    explanation = watch.finish(Result.of(simulation, {"policy": "p"}))

    for step in steps:
        at = step.planned.start
        held = [wait for wait in explanation.waits if wait.start <= at < wait.end]
        first = [wait for wait in held if wait.reason not in ("head of line", "step under way")]
        assert len(first) <= 1
        if any(wait.reason == "head of line" for wait in held) and not step.planned.preempted:
            assert len(first) == 1


@settings(max_examples=60)
@given(case=cases())
def test_watching_changes_nothing(case: Case) -> None:
    alone, simulation = simulation_of(case), simulation_of(case)
    alone.run()

    explanation = watched(simulation)

    for name in (*Outcomes.FLOATS, *Outcomes.COUNTS):
        one, other = getattr(alone.outcomes, name), getattr(simulation.outcomes, name)
        assert one.tobytes() == other.tobytes()
    theirs, ours = summarise(alone, Columns.of(alone)), explanation.result.summary
    known = {name: value for name, value in theirs.items() if value is not None}
    assert {name: value for name, value in ours.items() if value is None} == dict.fromkeys(
        theirs.keys() - known
    )
    # Figures over time may be summed in another order.
    assert {name: ours[name] for name in known} == pytest.approx(known, rel=1e-12, abs=1e-12)


def test_places_are_what_the_first_in_line_waits_for() -> None:
    explanation = small(trace((0, 4, 3), (0, 4, 1), (0.5, 4, 1)), max_num_seqs=1)

    assert stretches(explanation.waits) == [
        (1, "slots", 0, 3),
        (2, "head of line", 1, 3),
        (2, "slots", 3, 4),
        (2, "step under way", 0.5, 1),
    ]


def test_blocks_are_what_the_first_in_line_waits_for() -> None:
    # 4 usable blocks of 4 tokens: the first holds three, the second needs two.
    explanation = small(trace((0, 12, 1), (0, 8, 1)), blocks=5)

    assert stretches(explanation.waits) == [(1, "blocks", 0, 1)]


def test_the_token_budget_is_what_the_first_in_line_waits_for() -> None:
    explanation = small(trace((0, 16, 1), (0, 4, 1)), max_num_batched_tokens=8)

    assert stretches(explanation.waits) == [(1, "token budget", 0, 2)]


def test_a_prompt_that_may_not_be_cut_waits_for_the_token_budget() -> None:
    explanation = small(
        trace((0, 40, 1), (0, 30, 1)), enable_chunked_prefill=False, max_num_batched_tokens=64
    )

    assert stretches(explanation.waits) == [(1, "token budget", 0, 1)]


def test_a_static_batch_is_waited_for() -> None:
    explanation = small(trace((0, 4, 2), (1, 4, 1)), scheduler="static")

    assert stretches(explanation.waits) == [(1, "static batch", 1, 2)]


def test_a_longer_prefix_hit_may_let_a_whole_prompt_in() -> None:
    work = trace((0, 40, 3), (1, 41, 1), ids=[[1] * 10, [1] * 10 + [2]], block_tokens=4)

    explanation = small(work, "prefix:block_size=4", enable_chunked_prefill=False, max_num_batched_tokens=64)

    assert explanation.waits == []


def test_an_unfinished_request_has_waited_until_the_end() -> None:
    simulation = prepare(trace((0, 4, 3), (1, 30, 1)), blocks=5)
    simulation.reject_never_fits = False

    explanation = watched(simulation)

    assert stretches(explanation.waits) == [(1, "blocks", 1, 3)]


# -- preemptions ------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(simulation=simulations())
def test_preemptions_add_up_to_the_summarys(simulation: Simulation) -> None:
    explanation = watched(simulation)

    summary = explanation.result.summary
    each = explanation.preemptions
    assert len(each) == summary["preemptions"]
    assert sum(one.recomputed_tokens for one in each) == summary["recomputed_tokens"]
    found = sum(one.found_tokens for one in each)
    if simulation.replica.policy.parameters().get("preemption") != "swap":
        assert found == summary["readmission_cached_tokens"]
    assert all(one.by >= 0 for one in each)
    assert all(one.back is None or one.time <= one.back for one in each)
    assert all(one.step_seconds >= 0 for one in each)


def test_a_preemption_by_hand() -> None:
    # 5 usable blocks of 4: two prompts of 7 tokens take two each; the first to grow beyond 8 takes the fifth, the
    # second finds none and has to give way itself.
    explanation = small(trace((0, 7, 6), (0, 7, 6)), blocks=6)

    (one,) = explanation.preemptions
    assert (one.request, one.by, one.lost_tokens) == (1, 1, 8)
    assert (one.time, one.back, one.found_tokens, one.recomputed_tokens) == (2, 6, 0, 8)
    assert one.caught_up == 7
    # A step of a second computes these 8 and one token more.
    assert one.step_seconds == pytest.approx(8 / 9)


def test_it_is_said_who_took_the_memory() -> None:
    explanation = small(trace((0, 6, 8), (0, 7, 8), (0, 4, 8)), blocks=7)

    assert [(one.request, one.by) for one in explanation.preemptions][:1] == [(2, 1)]


# -- prefixes ---------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(simulation=simulations())
def test_lookups_add_up_to_the_prompts_and_to_the_hits(simulation: Simulation) -> None:
    explanation = watched(simulation)

    lookups = explanation.lookups
    if lookups is None:
        assert simulation.replica.policy.name.startswith(("paged", "contiguous"))
        return
    prompts = simulation.workload.prompt_tokens
    for row, *parts in lookups:
        assert sum(parts) == prompts[row]
        assert min(parts) >= 0
    assert sum(lookup.hit for lookup in lookups) == explanation.result.summary["cached_tokens"]
    assert len({lookup.request for lookup in lookups}) == len(lookups)


def test_lookups_by_hand() -> None:
    ids = [[1, 2, 3], [9, 8, 7, 6], [1, 2, 4], [1, 2, 4]]
    work = trace((0, 11, 1), (5, 16, 1), (10, 11, 1), (15, 12, 1), ids=ids, block_tokens=4)

    # 5 usable blocks: the second prompt takes four of them and pushes the first one's out.
    explanation = small(work, "prefix:block_size=4", blocks=6)

    assert explanation.lookups == [
        Lookup(0, hit=0, evicted=0, never_seen=8, too_short=3),
        Lookup(1, hit=0, evicted=0, never_seen=12, too_short=4),
        Lookup(2, hit=4, evicted=4, never_seen=0, too_short=3),
        Lookup(3, hit=8, evicted=0, never_seen=0, too_short=4),
    ]


def test_nothing_is_evicted_from_a_pool_that_holds_it_all() -> None:
    work = generate("agent", 60, rate=1.0, seed=2)

    explanation = explain(work, "prefix", gpu="h200-sxm", cost="linear:0.01,1e-6,0", max_model_len=131072)

    assert explanation.lookups is not None
    assert sum(lookup.evicted for lookup in explanation.lookups) == 0
    assert sum(lookup.hit for lookup in explanation.lookups) > 0


def test_an_answer_that_is_asked_about_again_was_seen() -> None:
    answer = [(1 << 50) + k for k in range(8)]
    prompt = [1, 2, 3, 4]
    work = trace((0, 4, 8), (20, 12, 1), ids=[prompt, prompt + answer], block_tokens=1)

    explanation = small(work, "prefix:block_size=4")

    assert explanation.lookups is not None
    # Of the answer's 8 tokens the last one never got KV; the block it is in cannot be hit.
    assert explanation.lookups[1] == Lookup(1, hit=8, evicted=0, never_seen=0, too_short=4)


# -- a life -----------------------------------------------------------------------------------------------


def test_a_life_is_told_in_order() -> None:
    explanation = small(trace((0, 7, 6), (0, 7, 6)), blocks=6)

    text = life_text(explanation, 1).splitlines()
    assert text[0] == "Request 1"
    assert [line.split("  ")[-1].split(":")[0].split(" with")[0] for line in text[1:]] == [
        "comes",
        "is scheduled",
        "has its first token, 1,000.0 ms after it came",
        "is preempted by itself",
        "waits 1,000.0 ms (preemption",
        "waits 3,000.0 ms (blocks",
        "is scheduled again",
        "is where it was, after 1,000.0 ms of steps, 888.9 ms of them for what was lost",
        "is finished, 10,000.0 ms after it came, 1,800.0 ms a token after the first",
    ]


@settings(max_examples=60)
@given(simulation=simulations())
def test_every_life_has_a_beginning_and_an_end(simulation: Simulation) -> None:
    explanation = watched(simulation)

    for row in range(len(simulation.workload)):
        events = life(explanation, row)
        assert [event.time for event in events] == sorted(event.time for event in events)
        assert events[0].text.startswith("comes with")
        assert events[-1].text.startswith(("is finished", "is rejected", "is not finished"))
