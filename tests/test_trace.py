"""The columnar trace: checking, sorting, taking rows, hashing, and writing it without loss."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.request import IntColumn, Workload
from kvsim.traces import Trace, read_trace, write_trace
from kvsim.traces.check_ids import first_seen
from kvsim.traces.origin import Origin
from kvsim.traces.trace import ROW_COLUMNS


def make(arrival: list[float], **columns: object) -> Trace:
    """Build an unchecked trace of prompts of 10 and outputs of 2 tokens."""
    rows = len(arrival)
    given: dict[str, object] = {
        "prompt_tokens": np.full(rows, 10),
        "output_tokens": np.full(rows, 2),
        **columns,
    }
    return Trace(name="t", arrival=np.array(arrival, np.float64), **given)  # type: ignore[arg-type]


def ints(*values: int) -> IntColumn:
    return np.array(values, np.int64)


def same(one: Trace, other: Trace) -> bool:
    fields = (*ROW_COLUMNS, "block_ids", "block_offsets")
    pairs = [(getattr(one, name), getattr(other, name)) for name in fields]
    columns = all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs)
    return columns and (one.name, one.block_tokens, one.notes) == (
        other.name,
        other.block_tokens,
        other.notes,
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    rows = draw(st.integers(1, 12))
    whole = st.lists(st.integers(1, 100), min_size=rows, max_size=rows)
    seconds = st.lists(st.floats(0, 1e9, allow_subnormal=False), min_size=rows, max_size=rows)
    prompt = np.array(draw(whole))
    columns: dict[str, object] = {"prompt_tokens": prompt, "output_tokens": np.array(draw(whole))}
    if draw(st.booleans()):
        columns |= {"priority": np.array(draw(whole)) - 50, "samples": np.array(draw(whole))}
    if draw(st.booleans()):
        parent = np.array([draw(st.integers(-1, row - 1)) for row in range(rows)])
        columns |= {"parent": parent, "think": np.array(draw(seconds))}
    if draw(st.booleans()):
        counts = [draw(st.integers(0, -(-int(tokens) // 4))) for tokens in prompt]
        ids = np.array(
            draw(st.lists(st.integers(0, 2**60), min_size=sum(counts), max_size=sum(counts))), np.int64
        )
        columns |= {"block_ids": ids, "block_offsets": np.array([0, *np.cumsum(counts)]), "block_tokens": 4}
    return make(draw(seconds), **columns, notes=("one", "two"))


@given(traces())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_own_parquet_gives_back_the_same_trace(tmp_path: Path, trace: Trace) -> None:
    checked = trace.checked()

    write_trace(checked, tmp_path / "t.parquet")

    back = read_trace(tmp_path / "t.parquet")
    assert same(back, checked)
    assert back.sha256() == checked.sha256()


@given(traces())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_rows_give_back_the_same_columns(tmp_path: Path, trace: Trace) -> None:
    checked = trace.checked()

    write_trace(checked, tmp_path / "t.jsonl.gz")

    back = read_trace(tmp_path / "t.jsonl.gz")
    if checked.block_ids is not None and not len(checked.block_ids):
        checked = dataclasses.replace(checked, block_ids=None, block_offsets=None, block_tokens=0)
    assert same(dataclasses.replace(back, name=checked.name, notes=checked.notes), checked)


@given(traces())
@settings(max_examples=100, deadline=None)
def test_checking_keeps_every_request_with_its_ids_and_its_parent(trace: Trace) -> None:
    numbered = dataclasses.replace(trace, output_tokens=np.arange(len(trace)) + 1).checked()
    origin = numbered.output_tokens - 1

    assert sorted(origin) == list(range(len(trace)))
    assert np.all(np.diff(numbered.arrival) >= 0)
    for row, source in enumerate(origin):
        assert np.array_equal(numbered.ids(row), trace.ids(int(source)))
        if trace.parent is not None and numbered.parent is not None:
            parent = trace.parent[source]
            assert (origin[numbered.parent[row]] == parent) if parent >= 0 else (numbered.parent[row] == -1)


@given(traces())
@settings(max_examples=50, deadline=None)
def test_checking_a_checked_trace_changes_nothing(trace: Trace) -> None:
    once = trace.checked()

    assert same(once.checked(), once)


def test_a_trace_is_a_workload() -> None:
    workload: Workload = make([0.0])

    assert len(workload) == 1


def test_rows_out_of_order_are_sorted_stably_and_it_is_said() -> None:
    trace = make([2.0, 1.0, 1.0, 0.0], output_tokens=ints(1, 2, 3, 4)).checked()

    assert trace.output_tokens.tolist() == [4, 2, 3, 1]
    assert trace.notes == ("2 rows came before the one above by arrival; the rows were sorted",)


def test_closed_loop_rows_take_the_arrival_of_their_first_row_and_stay_behind_their_parents() -> None:
    trace = make(
        [5.0, 9.0, 1.0, 0.0],
        session=ints(7, 7, 8, 7),
        parent=ints(-1, 0, -1, 1),
        think=np.array([0.0, 3, 0, 4]),
    ).checked()

    assert trace.arrival.tolist() == [1.0, 5.0, 5.0, 5.0]
    assert trace.session is not None
    assert trace.session.tolist() == [8, 7, 7, 7]
    assert trace.parent is not None
    assert trace.parent.tolist() == [-1, -1, 1, 2]


def test_parents_without_sessions_make_sessions() -> None:
    trace = make([0.0, 0.0, 0.0], parent=ints(-1, -1, 0)).checked()

    assert trace.session is not None
    assert trace.session.tolist() == [0, 1, 0]


def test_taking_rows_keeps_ids_and_starts_orphans_anew() -> None:
    ids = {"block_ids": ints(1, 2, 3), "block_offsets": ints(0, 1, 1, 3), "block_tokens": 5}
    trace = make([1.0, 1.0, 1.0], parent=ints(-1, 0, 1), think=np.array([0.0, 2, 3]), **ids).checked()

    taken = trace.take(ints(2, 0))

    assert [taken.ids(row).tolist() for row in range(2)] == [[1], [2, 3]]
    assert taken.parent is not None
    assert taken.parent.tolist() == [-1, -1]
    assert taken.arrival.tolist() == [1.0, 1.0]


def test_ids_of_answers_follow_the_rows_that_gave_them() -> None:
    answer = [2**50 + row * 2**22 + 3 for row in range(3)]
    ids = {"block_ids": np.array([5, *answer]), "block_offsets": ints(0, 0, 0, 4), "block_tokens": 1}
    trace = make([1.0, 0.0, 2.0], **ids)

    moved = trace.checked()
    taken = moved.take(ints(1, 2))

    assert moved.ids(2).tolist() == [5, answer[1], answer[0], answer[2]]
    assert taken.ids(1).tolist() == [5, answer[0], 2**56 + 3, answer[1]]


def test_taking_by_mask_takes_the_marked_rows() -> None:
    trace = make([0.0, 1.0, 2.0]).checked()

    assert trace.take(np.array([True, False, True])).arrival.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("rows", [[-1], [3], [0, 0]])
def test_rows_that_are_not_there_or_closed_loop_rows_twice_cannot_be_taken(rows: list[int]) -> None:
    trace = make([0.0, 0.0, 0.0], parent=ints(-1, 0, 1)).checked()

    with pytest.raises(InputError, match=r"rows must be|taken twice"):
        trace.take(np.array(rows))


@pytest.mark.parametrize("name", ["arrival", "prompt_tokens", "output_tokens", "priority", "samples"])
def test_the_hash_sees_a_change_in_any_column(name: str) -> None:
    trace = make([0.0, 1.0], priority=ints(0, 0), samples=ints(1, 1)).checked()
    changed = getattr(trace, name).copy()
    changed[1] += 1

    assert dataclasses.replace(trace, **{name: changed}).sha256() != trace.sha256()
    assert dataclasses.replace(trace, name="other", notes=("x",)).sha256() == trace.sha256()


def test_the_hash_of_a_trace_stays_what_it_was() -> None:
    trace = make([0.0, 1.5], priority=ints(0, 1)).checked()

    assert trace.sha256() == "365fe8a613b0dcce434a13ef20cd704aa14b10da86eb366150b3be00f5a56929"


def test_a_trace_describes_itself_in_one_line() -> None:
    trace = make([0.0, 2.0], block_ids=ints(1), block_offsets=ints(0, 1, 1), block_tokens=16).checked()

    assert trace.describe() == (
        "t: 2 requests, 2.0 s of arrivals, mean 10.0 prompt and 2.0 output tokens, 1 ids of 16-token content"
    )


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"arrival": np.array([0.0, np.nan])},
            "t row 2: arrival is nan; it must be a finite number, at least 0",
        ),
        ({"arrival": np.array([-0.5, 0.0])}, "t row 1: arrival is -0.5"),
        (
            {"prompt_tokens": ints(1, 0)},
            "t row 2: prompt_tokens is 0; it must be an integer from 1 to 2147483647",
        ),
        ({"prompt_tokens": np.array([1.0, 2.5])}, r"t row 2: prompt_tokens is 2\.5"),
        ({"prompt_tokens": np.array([1.0, np.nan])}, "t row 2: prompt_tokens is nan"),
        ({"output_tokens": ints(-3, 1)}, "t row 1: output_tokens is -3"),
        ({"output_tokens": ints(1, 2**40)}, "t row 2: output_tokens is 1099511627776"),
        ({"output_tokens": np.array([1.0, 1e30])}, r"t row 2: output_tokens is 1e\+30"),
        ({"output_tokens": np.array(["1", "x"])}, "output_tokens must be an integer"),
        ({"samples": ints(1, 0)}, "t row 2: samples is 0"),
        ({"think": np.array([0.0, -1.0])}, "t row 2: think is -1.0"),
        ({"priority": ints(1)}, r"priority has shape \(1,\); arrival has 2 rows"),
        ({"parent": ints(-1, 1)}, "t row 2: parent is 1; it must be −1 or the number"),
        ({"parent": ints(-1, -2)}, "t row 2: parent is -2"),
        ({"parent": ints(-1, 0), "session": ints(4, 5)}, "t row 2: parent is 0, a row of session 4"),
        ({"block_ids": ints(1)}, "must be given together"),
    ],
)
def test_a_wrong_value_is_named_with_row_column_and_value(columns: dict[str, object], message: str) -> None:
    trace = dataclasses.replace(make([0.0, 1.0]), **columns)  # type: ignore[arg-type]

    with pytest.raises(InputError, match=message):
        trace.checked()


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(InputError, match="t: the trace has no requests"):
        make([]).checked()


@pytest.mark.parametrize(
    ("ids", "offsets", "size", "message"),
    [
        ([1, 2, 3, 4], [0, 4, 4], 4, "t row 1: block_ids has 4 ids for 10 prompt tokens"),
        ([1, -2], [0, 1, 2], 4, "t row 2: block_ids holds -2; it must hold integers from 0"),
        ([2**62], [0, 1, 1], 4, "t row 1: block_ids holds 4611686018427387904"),
        ([1, 2], [0, 2], 4, "block_offsets must rise from 0 to 2 over 2 rows"),
        ([1, 2], [0, 2, 1], 4, "block_offsets must rise"),
        ([1], [0, 1, 1], 0, "block_tokens must be at least 1, got 0"),
    ],
)
def test_wrong_ids_are_named(ids: list[int], offsets: list[int], size: int, message: str) -> None:
    trace = make([0.0, 1.0], block_ids=ints(*ids), block_offsets=ints(*offsets), block_tokens=size)

    with pytest.raises(InputError, match=message):
        trace.checked()


def test_ids_that_do_not_chain_name_both_rows() -> None:
    trace = make([0.0, 1.0], block_ids=ints(1, 2, 3, 2), block_offsets=ints(0, 2, 4), block_tokens=8)

    with pytest.raises(InputError, match="t row 2: block_ids 2 follows 3, but in t row 1 it follows 1"):
        trace.checked(Origin("t", chained=True))


@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**60)), min_size=1))
def test_first_seen_is_the_first_position_of_each_id(ids: list[int]) -> None:
    assert first_seen(np.array(ids)).tolist() == [ids.index(value) for value in ids]


@pytest.mark.parametrize("name", ["t.csv", "missing-folder/t.parquet"])
def test_a_trace_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"written as \.parquet|cannot be written"):
        write_trace(make([0.0]).checked(), tmp_path / name)

    assert not list(tmp_path.iterdir())


def test_the_same_trace_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    trace = make([0.0, 1.0]).checked()
    for name in ("a", "b"):
        write_trace(trace, tmp_path / f"{name}.jsonl.gz")
        write_trace(trace, tmp_path / f"{name}.parquet")

    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
