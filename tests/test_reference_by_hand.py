"""Small cases of the reference that were worked out on paper: what the oracle's logs do not show."""

from __future__ import annotations

from typing import Any

import pytest
from reference.contiguous import ContiguousMemory, whole_chunks
from reference.groups import Group, keeps
from reference.ledger import Ledger, inter_token_latencies, request_columns, run_with_ledger
from reference.loop import Log, run

SECONDS = {"cost_a": 1.0, "cost_b": 0.0, "cost_c": 0.0}
SMALL: dict[str, Any] = {
    **SECONDS,
    "num_blocks": 9,
    "block_size": 4,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "max_model_len": 64,
}


def row(arrival: float, prompt: int, output: int, **more: Any) -> dict[str, Any]:
    """Write a trace row."""
    return {"arrival_s": arrival, "prompt_len": prompt, "output_len": output, **more}


def kinds(ledger: Ledger, *names: str) -> list[list[int]]:
    """Return the named columns of the steps."""
    return [[line[name] for name in names] for line in ledger.rows if line["step"] is not None]


def contiguous(reservation: str, placement: str, size: int, **more: Any) -> dict[str, Any]:
    """Write a configuration with a contiguous memory."""
    memory = {"type": "contiguous", "capacity": size, "reservation": reservation, "placement": placement}
    return {**SMALL, "memory": memory, **more}


def admissions(log: Log) -> list[list[int]]:
    """Return the rows admitted in each step."""
    return [[index for index, _ in step["new"]] for step in log.steps]


def test_unfilled_tail_is_reserved_up_to_the_final_length_and_internal_beyond() -> None:
    _, ledger = run_with_ledger([row(0, 5, 2)], SMALL)

    # Blocks of 4 for 5 + 2 − 1 = 6 tokens: two blocks, eight slots, two of them never filled.
    assert kinds(ledger, "live", "reserved", "internal", "free") == [[5, 1, 2, 24], [6, 0, 2, 24]]


def test_tokens_behind_the_window_are_internal_until_their_block_goes() -> None:
    config = {**SMALL, "block_size": 2, "groups": [{"type": "swa", "window": 3}]}

    _, ledger = run_with_ledger([row(0, 5, 3)], config)

    # Tables: 0 1 2 | 3 4 5; then - 2 3 | 4 5, token 2 dead; then - - 4 5 | 6 and a slot never filled.
    assert kinds(ledger, "live", "reserved", "internal", "free") == [
        [5, 1, 0, 10],
        [3, 0, 1, 12],
        [3, 0, 1, 12],
    ]


def test_shared_block_counts_once_and_free_content_is_reusable() -> None:
    config = {**SMALL, "enable_prefix_caching": True, "hash_block_tokens": 4}
    rows = [row(0, 8, 1, hash_ids=[1, 2]), row(0, 8, 1, hash_ids=[1, 3]), row(4, 1, 1)]

    _, ledger = run_with_ledger(rows, config)

    assert kinds(ledger, "live", "internal", "reusable", "free") == [[12, 0, 0, 20], [1, 3, 12, 16]]


def test_token_costs_slots_in_every_group_by_its_block_size() -> None:
    groups = [{"type": "full", "block_size": 4}, {"type": "full", "block_size": 2}]

    _, ledger = run_with_ledger([row(0, 3, 1)], {**SMALL, "groups": groups})

    # lcm 4: one block of the first group and two of the second; a token is one slot there, two here.
    assert kinds(ledger, "live", "internal", "free") == [[3 + 6, 1 + 2, 20]]


def test_integrals_include_idle_time_between_steps_only() -> None:
    _, ledger = run_with_ledger([row(5, 4, 1), row(9, 4, 1)], SMALL)

    assert ledger.integrals() == {
        "live": 8.0,
        "reserved": 0.0,
        "internal": 0.0,
        "external": 0.0,
        "reusable": 0.0,
        "free": 28.0 * 2 + 32.0 * 3,
    }


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        # 6 + 6 + 4 slots are taken; the first and third go, but 8 do not fit in their holes of 6 and 4.
        ("first-fit", [[0, 0], [10, 0], [10, 0], [10, 0], [0, 8]]),
        ("best-fit", [[0, 0], [10, 0], [10, 0], [10, 0], [0, 8]]),
        # 8 + 8 are taken; in the next step the third has the first's lower half, then the fourth all of it.
        ("buddy", [[0, 0], [4, 0], [0, 0], [0, 8]]),
    ],
)
def test_holes_too_small_for_the_next_in_line_are_external(placement: str, expected: list[list[int]]) -> None:
    rows = [row(0, 6, 1), row(0, 3, 4), row(0, 4, 1), row(0, 8, 1)]

    _, ledger = run_with_ledger(rows, contiguous("oracle", placement, 16))

    assert kinds(ledger, "external", "free") == expected


def test_first_fit_takes_the_lowest_hole_and_best_fit_the_smallest() -> None:
    holes = [(0, 9), (20, 5), (30, 5), (40, 100)]
    lowest = ContiguousMemory({**contiguous("max", "first-fit", 140)})
    smallest = ContiguousMemory({**contiguous("max", "best-fit", 140)})
    lowest.holes = smallest.holes = holes

    assert lowest.choose(4) == (0, 9)
    assert smallest.choose(4) == (20, 5)
    assert smallest.choose(6) == (0, 9)
    assert smallest.choose(101) is None


def test_buddies_split_and_merge_within_the_powers_of_two_of_the_capacity() -> None:
    memory = ContiguousMemory(contiguous("max", "buddy", 13))

    assert memory.holes == whole_chunks(13) == [(0, 8), (8, 4), (12, 1)]
    assert memory.halves((0, 8), 2) == [(4, 4), (2, 2)]
    memory.holes = [(2, 2), (4, 4), (8, 4), (12, 1)]
    assert memory.with_buddies((0, 2)) == [(0, 8), (8, 4), (12, 1)]


def test_shortest_first_admits_the_shortest_prompt_and_puts_victims_in_their_place() -> None:
    rows = [row(0, 9, 1), row(0, 5, 1), row(0, 7, 1)]

    log = run(rows, {**SMALL, "policy": "sjf", "max_num_seqs": 1})

    assert admissions(log) == [[1], [2], [0]]


def test_static_batch_is_not_refilled_before_it_is_empty() -> None:
    rows = [row(0, 4, 1), row(0, 4, 3), row(0, 4, 1)]
    config = {**SMALL, "max_num_seqs": 2}

    static = run(rows, {**config, "batching": "static"})

    assert admissions(run(rows, config)) == [[0, 1], [2], []]
    assert admissions(static) == [[0, 1], [], [], [2]]


def test_child_is_sent_after_its_parent_finished_or_was_refused() -> None:
    rows = [row(0, 4, 2), row(0, 64, 1), row(0, 4, 1, parent=0, think=3.0), row(0, 4, 1, parent=1, think=5.0)]

    log = run(rows, SMALL)

    assert [request["arrival"] for request in log.requests] == [0, 0, 5, 5]
    assert log.requests[1]["status"] == "rejected"


def test_what_never_fits_blocks_the_queue_unless_it_is_rejected() -> None:
    rows = [row(0, 33, 1), row(0, 4, 1)]

    stuck = run(rows, SMALL)
    refused = run(rows, {**SMALL, "reject_never_fits": True})

    assert [request["status"] for request in stuck.requests] == ["stuck", "stuck"]
    assert [request["status"] for request in refused.requests] == ["rejected", "finished"]


def test_hits_after_a_preemption_are_counted_apart_from_first_hits() -> None:
    config = {**SMALL, "num_blocks": 6, "enable_prefix_caching": True}

    log = run([row(0, 8, 5), row(0, 9, 3)], config)

    # Five blocks hold 8 + 9 tokens; the first needs a third block, the second loses 9 tokens and finds 8.
    columns = request_columns(log)
    assert [line["preemptions"] for line in columns] == [0, 1]
    assert [line["cached_tokens"] for line in columns] == [0, 0]
    assert [line["cached_again_tokens"] for line in columns] == [0, 8]
    assert [line["recomputed_tokens"] for line in columns] == [0, 1]


def test_gaps_between_outputs_are_the_steps_between_them() -> None:
    log = run([row(0, 8, 3), row(1.5, 4, 2)], SMALL)

    assert inter_token_latencies(log) == {0: [1.0, 1.0], 1: [1.0]}


def test_retention_keeps_the_blocks_that_end_at_each_multiple() -> None:
    group = Group(0, 4, window=6)

    kept = [block for block in range(9) if keeps(group, block, 4, 16, [4 * 9 - 1])]

    assert kept == [2, 3, 6, 7]
