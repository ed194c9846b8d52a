"""Who runs next: order of the queue, chunks of prompts, static batches, and steps scheduled ahead."""

from __future__ import annotations

from small_runs import Run, run, trace

from kvsim.cost import LinearCost

A_TOKEN_A_SECOND = LinearCost(0.0, 1.0, 0.0)


def rows_in_order(found: Run) -> list[list[int]]:
    """Return which rows ran in each step, in scheduling order."""
    return [[row for row, _ in step] for step in found.scheduled]


def test_prompt_is_computed_in_chunks_between_decodes() -> None:
    found = run(trace((0, 2, 3), (0, 10, 1)), cost=A_TOKEN_A_SECOND, max_num_batched_tokens=4, max_num_seqs=4)

    assert found.scheduled == [[(0, 2), (1, 2)], [(0, 1), (1, 3)], [(0, 1), (1, 3)], [(1, 2)]]
    assert found.spans == [(0, 4), (4, 8), (8, 12), (12, 14)]
    assert found.times("first_token") == [4, 14]
    assert found.times("finish") == [12, 14]


def test_long_prefill_in_front_takes_the_budget_from_decodes_behind_it() -> None:
    work = trace((0, 3, 4), (0, 9, 1), (0, 1, 3))

    found = run(work, max_num_batched_tokens=4, max_num_seqs=4)

    # Running is in order of admission: row 1's chunks come before row 2 is let in at all.
    assert found.scheduled[:4] == [
        [(0, 3), (1, 1)],
        [(0, 1), (1, 3)],
        [(0, 1), (1, 3)],
        [(0, 1), (1, 2), (2, 1)],
    ]


def test_threshold_caps_a_prompt_while_others_are_there() -> None:
    found = run(trace((0, 9, 1), (0, 9, 1)), long_prefill_token_threshold=4)

    assert found.scheduled == [[(0, 4), (1, 4)], [(0, 4), (1, 4)], [(0, 1), (1, 1)]]


def test_without_chunked_prefill_a_prompt_waits_for_the_whole_budget() -> None:
    work = trace((0, 40, 1), (0, 40, 1))

    found = run(work, enable_chunked_prefill=False)

    assert found.scheduled == [[(0, 40)], [(1, 40)]]


def test_priority_runs_the_smallest_first_and_preempts_the_largest() -> None:
    work = trace((0, 8, 5), (0, 9, 3), (0, 4, 1), priority=[1, 0, 2])

    found = run(work, scheduling_policy="priority", blocks=6)

    # Row 1 is most urgent and takes 3 blocks, row 0 takes 2; row 0's ninth token finds none and row 0 itself
    # is the least urgent that runs.
    assert rows_in_order(found) == [[1, 0], [1], [1], [0, 2], [0], [0], [0]]
    assert found.preempted[1] == [0]


def test_urgent_arrival_does_not_push_out_what_runs() -> None:
    work = trace((0, 8, 3), (1, 8, 1), (1, 8, 1), priority=[9, 5, 0])

    found = run(work, scheduling_policy="priority", max_num_seqs=1)

    assert rows_in_order(found) == [[0], [0], [0], [2], [1]]


def test_shortest_first_goes_by_the_prompt() -> None:
    found = run(trace((0, 9, 1), (0, 5, 9), (0, 7, 1)), scheduling_policy="sjf", max_num_seqs=1)

    assert rows_in_order(found) == [[1]] * 9 + [[2], [0]]


def test_static_batch_ends_as_one_while_continuous_refills() -> None:
    work = trace((0, 4, 1), (0, 4, 3), (0, 4, 1))

    continuous = run(work, max_num_seqs=2)
    static = run(work, max_num_seqs=2, scheduler="static")

    assert rows_in_order(continuous) == [[0, 1], [1, 2], [1]]
    assert rows_in_order(static) == [[0, 1], [1], [1], [2]]
    assert (continuous.times("finish"), static.times("finish")) == ([1, 3, 2], [1, 3, 4])


def test_asynchronous_scheduling_admits_one_step_later() -> None:
    work = trace((0, 4, 4), (0.5, 4, 1))

    waits, ahead = run(work), run(work, async_scheduling=True)

    # The step from 1 to 2 is already scheduled when row 1 arrives.
    assert waits.times("first_scheduled") == [0, 1]
    assert ahead.times("first_scheduled") == [0, 2]


def test_of_equal_priorities_the_last_to_arrive_is_preempted() -> None:
    work = trace((0, 8, 5), (0.5, 4, 2), (0.75, 4, 2), priority=[1, 1, 1])

    found = run(work, scheduling_policy="priority", blocks=6)

    # From 1 on the three hold 3 + 1 + 1 of five blocks; row 1's fifth token then finds none.
    assert found.scheduled[1] == [(0, 1), (1, 4), (2, 4)]
    assert found.preempted[2] == [2]


def test_nobody_is_admitted_in_a_step_that_preempts_even_where_there_is_room() -> None:
    work = trace((0, 8, 3), (0, 9, 2), (1, 4, 1), priority=[0, 9, 1])

    found = run(work, scheduling_policy="priority", blocks=6)

    # Row 1 gives three blocks back, of which row 0 takes one; row 2 comes in a step later.
    assert found.preempted[1] == [1]
    assert found.scheduled[1:3] == [[(0, 1)], [(0, 1), (2, 4)]]
