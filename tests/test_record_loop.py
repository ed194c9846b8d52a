"""The recorder's clock, around a scheduler that is made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.manifest import CaseConfig
from kvsim.record_files import config_row
from kvsim.record_flags import make_config
from kvsim.record_loop import Planned, Recording
from kvsim.record_trace import TraceRow

Log = list[dict[str, Any]]  # Any: what JSON holds


def config(**changes: Any) -> CaseConfig:  # Any: settings of several types
    base = make_config({"num_blocks": 8, "max_model_len": 64}, None)
    return CaseConfig.read(config_row(base) | {"cost_a": 1.0, "cost_b": 0.5, "cost_c": 0.0} | changes, "test")


def request(index: int, arrival: float = 0.0, prompt: int = 4, output: int = 2, **more: Any) -> TraceRow:
    return TraceRow(index=index, arrival=arrival, prompt_len=prompt, output_len=output, **more)


class EasyDriver:
    """Runs everything at once: the whole prompt, then a token a step; as many under way as are asked for."""

    def __init__(self) -> None:
        self.rows: dict[int, TraceRow] = {}
        self.planned: dict[int, int] = {}
        self.outputs: dict[int, int] = {}

    def add(self, row: TraceRow) -> None:
        self.rows[row.index], self.planned[row.index], self.outputs[row.index] = row, 0, 0

    def busy(self) -> bool:
        return bool(self.rows)

    def schedule(self) -> Planned:
        ready = [index for index, row in self.rows.items() if self.planned[index] < row.output_len]
        new = [index for index in ready if not self.planned[index]]
        scheduled = [(index, self.rows[index].prompt_len if index in new else 1) for index in ready]
        for index in ready:
            self.planned[index] += 1
        context = sum(self.rows[index].prompt_len + self.planned[index] - 1 for index in ready)
        hits = [(index, 0) for index in new]
        return Planned(scheduled, hits, [], ready, len(self.rows), 0, len(self.rows), context, {})

    def complete(self, planned: Planned) -> list[int]:
        for index in planned.sampled:
            self.outputs[index] += 1
        done = [index for index in planned.sampled if self.outputs[index] == self.rows[index].output_len]
        for index in done:
            del self.rows[index]
        return done

    def blocks_in_use(self) -> int:
        return len(self.rows)

    def pool_state(self) -> dict[str, list[int]]:
        return {"free": [], "hashed": []}


class ScriptedDriver(EasyDriver):
    """Answers with given plans, then with nothing to do; what it is asked to finish is finished."""

    def __init__(self, plans: Iterator[Planned]) -> None:
        super().__init__()
        self.plans = plans

    def schedule(self) -> Planned:
        return next(self.plans, Planned([], [], [], [], 0, len(self.rows), 0, 0, {}))


def preempting(running: int) -> Planned:
    return Planned([], [], [0], [], running, 1, 0, 0, {})


def record(rows: list[TraceRow], driver: EasyDriver | None = None, **changes: Any) -> Log:
    log: Log = []
    recording = Recording(
        driver or EasyDriver(), config(**changes), rows, log.append, changes.get("detail", False)
    )
    recording.run()
    return json.loads(json.dumps(log))  # type: ignore[no-any-return]


def steps(log: Log) -> Log:
    return [row for row in log if row["kind"] == "step"]


def test_a_step_takes_what_the_clock_says() -> None:
    log = record([request(0, arrival=3.0, prompt=4, output=2)], cost_c=0.25)

    assert [(step["t0"], step["t1"]) for step in steps(log)] == [(3.0, 7.0), (7.0, 9.75)]
    assert [step["sched"] for step in steps(log)] == [[[0, 4]], [[0, 1]]]
    assert [step["fin"] for step in steps(log)] == [[], [0]]


def test_a_log_has_the_fields_of_the_format_in_order() -> None:
    step, _, row = record([request(0)])

    assert " ".join(step) == "kind step t0 t1 sched new preempt fin run wait blk blk_end ctx"
    assert " ".join(row) == (
        "kind req status arrival first_sched first_token finish preemptions cached_first cached_total "
        "sched_tokens outputs"
    )


def test_a_request_that_arrives_during_a_step_waits_for_its_end() -> None:
    first, second, *_ = steps(record([request(0), request(1, arrival=0.5)]))

    assert (first["new"], second["new"], second["t0"]) == ([[0, 0]], [[1, 0]], first["t1"])


def test_an_asynchronous_step_is_scheduled_when_the_one_before_it_starts() -> None:
    found = steps(record([request(0, output=3)], async_scheduling=True))

    assert [(step["ts"], step["t0"], step["t1"]) for step in found] == [
        (0.0, 0.0, 3.0),
        (0.0, 3.0, 4.5),
        (3.0, 4.5, 6.0),
    ]
    assert list(found[0])[:4] == ["kind", "step", "ts", "t0"]


def test_a_step_that_only_preempts_takes_no_time_and_is_logged() -> None:
    plans = iter([preempting(running=1), Planned([(0, 4)], [(0, 0)], [], [0], 1, 0, 1, 4, {})])
    found = steps(record([request(0, output=1)], ScriptedDriver(plans)))

    assert [(step["t0"], step["t1"], step["preempt"]) for step in found] == [(0.0, 0.0, [0]), (0.0, 3.0, [])]


def test_what_can_never_start_is_stuck_and_what_is_too_long_rejected() -> None:
    rows = [request(0, prompt=5), request(1, prompt=64), request(2, prompt=0)]
    log = record(rows, ScriptedDriver(iter([])))

    assert not steps(log)
    assert [row["status"] for row in log] == ["stuck", "rejected", "rejected"]
    assert log[0]["cached_first"] is None


def test_a_request_that_outgrows_the_pool_for_ever_is_refused() -> None:
    plans = (preempting(running=0) for _ in range(1000))

    with pytest.raises(InputError, match="request 0 outgrows num_blocks 8 although nothing else runs"):
        record([request(0)], ScriptedDriver(plans))


def test_detail_adds_tables_and_the_pool() -> None:
    log: Log = []
    Recording(EasyDriver(), config(), [request(0)], log.append, detail=True).run()

    assert list(log[0])[-3:] == ["tables", "free", "hashed"]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=8),
    st.booleans(),
)
def test_time_never_runs_backwards_and_no_token_is_lost(
    shapes: list[tuple[int, int, int]], asynchronous: bool
) -> None:
    rows = [request(index, *shape) for index, shape in enumerate(shapes)]
    log = record(rows, async_scheduling=asynchronous)
    requests, found = log[-len(rows) :], steps(log)

    assert [step["step"] for step in found] == list(range(len(found)))
    assert all(before["t1"] <= after["t0"] for before, after in pairwise(found))
    for row, seen in zip(rows, requests, strict=True):
        assert row.arrival <= seen["first_sched"] <= seen["first_token"] <= seen["finish"]
        assert (seen["outputs"], seen["status"]) == (row.output_len, "finished")
        assert seen["sched_tokens"] == row.prompt_len + row.output_len - 1
