"""The engine on cases worked out on paper: who runs when, and what every request went through."""

from __future__ import annotations

import math

import pytest
from small_runs import Run, prepare, run, trace

from kvsim.cost import LinearCost
from kvsim.engine import COMPLETED, REJECTED, UNFINISHED

A_TOKEN_A_SECOND = LinearCost(0.0, 1.0, 0.0)
FIVE_BLOCKS = {"blocks": 6, "policy": "paged:block_size=4"}
"""Five usable blocks of four tokens; the sixth is the null block."""


def rows_in_order(found: Run) -> list[list[int]]:
    """Return which rows ran in each step, in scheduling order."""
    return [[row for row, _ in step] for step in found.scheduled]


def test_one_request_prefills_once_and_then_decodes() -> None:
    found = run(trace((0, 5, 3)))

    assert found.scheduled == [[(0, 5)], [(0, 1)], [(0, 1)]]
    assert found.spans == [(0, 1), (1, 2), (2, 3)]
    assert found.finished == [[], [], [0]]
    assert (found.times("first_scheduled"), found.times("first_token")) == ([0], [1])
    assert found.times("finish") == [3]


def test_single_output_finishes_with_its_prefill() -> None:
    found = run(trace((2, 5, 1)))

    assert found.spans == [(2, 3)]
    assert found.times("first_token") == found.times("finish") == [3]


def test_no_requests_give_no_steps() -> None:
    found = run(trace())

    assert found.steps == []
    assert found.simulation.clock == 0
    assert found.simulation.replica.ledger.integrals(0.0)["live"] == 0


def test_full_pool_preempts_the_last_admitted_and_it_starts_again() -> None:
    found = run(trace((0, 8, 5), (0, 9, 3)), **FIVE_BLOCKS)

    # 2 + 3 blocks are all there is. Row 0's ninth token needs one more, so row 1 goes; it comes back when
    # row 0 is done, with its first output as part of the prompt.
    assert found.scheduled == [
        [(0, 8), (1, 9)],
        [(0, 1)],
        [(0, 1)],
        [(0, 1)],
        [(0, 1)],
        [(1, 10)],
        [(1, 1)],
    ]
    assert found.preempted == [[], [1], [], [], [], [], []]
    assert found.times("first_token") == [1, 1]
    assert found.times("finish") == [5, 7]


def test_preempted_request_keeps_its_outputs_and_reports_what_it_computed_again() -> None:
    found = run(trace((0, 8, 5), (0, 9, 3)), **FIVE_BLOCKS)

    assert found.counts("preemptions") == [0, 1]
    assert found.counts("recomputed") == [0, 9]
    assert found.simulation.replica.computed_tokens == (8 + 5 - 1) + (9 + 3 - 1) + 9


def test_nobody_is_admitted_in_a_step_that_preempts() -> None:
    found = run(trace((0, 8, 5), (0, 9, 3), (1, 1, 1)), **FIVE_BLOCKS)

    # Row 2 would fit into the blocks that row 1 gave back, but waits behind it.
    assert found.steps[1].admitted == []
    assert found.times("first_scheduled") == [0, 0, 5]


def test_preempted_request_goes_before_those_that_came_after_it() -> None:
    found = run(trace((0, 8, 5), (0, 9, 3), (1, 4, 1)), max_num_seqs=2, **FIVE_BLOCKS)

    assert rows_in_order(found)[-3:] == [[0], [1, 2], [1]]


def test_requests_preempted_in_one_step_come_back_in_the_order_in_which_they_ran() -> None:
    found = run(trace((0, 4, 2), (0, 4, 2), (0, 3, 3), (0, 3, 3)), blocks=5)

    # Four blocks, one each. Rows 0 and 1 both need a second: row 3 makes room for one, row 2 for the other.
    assert found.preempted[1] == [3, 2]
    assert found.scheduled[2] == [(2, 4), (3, 4)]


def test_last_admitted_preempts_itself_when_it_finds_no_block() -> None:
    found = run(trace((0, 4, 9), (0, 12, 2)), **FIVE_BLOCKS)

    # 1 + 3 blocks; row 0's fifth token takes the last one, and row 1's thirteenth finds none.
    assert found.preempted[1] == [1]
    assert found.scheduled[1] == [(0, 1)]
    assert found.times("finish") == [9, 10]


def test_arrivals_at_one_time_run_in_row_order() -> None:
    found = run(trace((0, 1, 1), (0, 2, 1), (0, 3, 1)), max_num_seqs=2)

    assert found.scheduled == [[(0, 1), (1, 2)], [(2, 3)]]


def test_arrival_at_the_end_of_a_step_joins_the_next() -> None:
    found = run(trace((0, 1, 3), (1, 1, 1), (math.nextafter(1, 2), 1, 1)))

    assert rows_in_order(found) == [[0], [0, 1], [0, 2]]
    assert found.times("first_scheduled") == [0, 1, 2]


def test_idle_engine_starts_at_the_arrival() -> None:
    found = run(trace((0.25, 1, 1), (7.5, 1, 1)))

    assert found.spans == [(0.25, 1.25), (7.5, 8.5)]


def test_request_that_never_fits_is_rejected_and_the_others_go_on() -> None:
    found = run(trace((0, 1, 1), (0, 30, 1), (0, 2, 1)), max_model_len=64, **FIVE_BLOCKS)

    outcomes = found.simulation.outcomes
    assert list(outcomes.status) == [COMPLETED, REJECTED, COMPLETED]
    assert outcomes.reasons == {1: "30 tokens need 8 blocks of 4, the pool has 5"}
    assert math.isnan(outcomes.finish[1])
    assert found.scheduled == [[(0, 1), (2, 2)]]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (0, "a prompt of 0 tokens has nothing to compute"),
        (8, "prompt of 8 tokens does not fit max_model_len 8"),
    ],
)
def test_prompt_that_leaves_no_room_for_an_output_is_rejected(prompt: int, reason: str) -> None:
    found = run(trace((0, prompt, 1), (0, 7, 1)), max_model_len=8)

    assert list(found.simulation.outcomes.status) == [REJECTED, COMPLETED]
    assert found.simulation.outcomes.reasons[0].startswith(reason)


def test_longest_sequence_cuts_the_outputs() -> None:
    found = run(trace((0, 5, 100)), max_model_len=8)

    assert found.scheduled == [[(0, 5)], [(0, 1)], [(0, 1)]]
    assert found.times("finish") == [3]


def test_without_rejection_what_never_fits_blocks_the_queue() -> None:
    simulation = prepare(trace((0, 30, 1), (0, 1, 1)), blocks=6)
    simulation.reject_never_fits = False
    simulation.run()

    assert list(simulation.outcomes.status) == [UNFINISHED, UNFINISHED]
    assert simulation.replica.steps == 0


def test_step_is_priced_by_its_tokens_and_context() -> None:
    found = run(trace((0, 5, 2), (0, 3, 1)), cost=LinearCost(100.0, 10.0, 1.0))

    # 100 + 8 tokens + 5 + 3 in context; then 100 + 1 token + 6 in context.
    assert found.spans == [(0, 188), (188, 304)]


def test_requests_finish_in_scheduling_order() -> None:
    found = run(trace((0, 5, 2), (0, 3, 2), (0, 9, 2)))

    assert found.finished == [[], [0, 1, 2]]


@pytest.mark.parametrize("placement", ["first-fit", "best-fit", "buddy"])
def test_contiguous_pool_runs_as_many_as_pieces_fit(placement: str) -> None:
    work = trace((0, 8, 2), (0, 8, 2), (0, 8, 2))

    found = run(work, f"contiguous:block_size=4:placement={placement}", blocks=9, max_model_len=16)

    # 32 slots are two pieces of 16.
    assert rows_in_order(found) == [[0, 1], [0, 1], [2], [2]]
    assert found.preempted == [[]] * 4
