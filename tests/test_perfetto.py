"""The Perfetto timeline: read back strictly, and held against the steps and the ledger."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from small_runs import prepare, trace
from tight_runs import run_watched, simulations

from kvsim.cli import main
from kvsim.engine import COMPLETED, Simulation
from kvsim.errors import InputError
from kvsim.ledger import CATEGORIES
from kvsim.replica import StepRecord
from kvsim.reports.perfetto import ENGINE, REQUESTS, STEPS, PerfettoTrace
from kvsim.reports.request_lanes import Lanes
from kvsim.result import Result, load_result

Event = dict[str, Any]

FIELDS = {
    "X": {"ph", "pid", "tid", "ts", "dur", "name"},
    "C": {"ph", "pid", "ts", "name", "args"},
    "i": {"ph", "s", "pid", "tid", "ts", "name", "args"},
    "M": {"ph", "pid", "name", "args"},
}
"""What each phase of the format must have."""


def written(simulation: Simulation, path: Path) -> tuple[list[Event], list[StepRecord]]:
    """Run with a timeline; return its events, checked one by one, and every step."""
    with PerfettoTrace(path) as timeline:
        timeline.attach(simulation)
        steps = run_watched(simulation)
        timeline.finish(Result.of(simulation, {"policy": "p"}))
    return read(path), steps


def read(path: Path) -> list[Event]:
    """Read the file strictly: fields, phases, named tracks, times in whole nanoseconds."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    document = json.loads(text, parse_float=Decimal, parse_constant=pytest.fail)
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    named: set[tuple[int, int | None]] = set()
    for event in document["traceEvents"]:
        assert FIELDS[event["ph"]] <= set(event) <= FIELDS[event["ph"]] | {"args", "tid"}
        place = event["pid"], event.get("tid")
        if event["ph"] == "M":
            named.add(place)
            continue
        assert place in named
        for key in ("ts", "dur"):
            if key in event:
                assert isinstance(event[key], Decimal)
                assert event[key] * 1000 == int(event[key] * 1000) >= 0
    return list(document["traceEvents"])


def spans(events: list[Event]) -> dict[tuple[int, int], list[Event]]:
    """Return the spans of each track in the order of the file."""
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    return tracks


def lives(events: list[Event]) -> dict[int, list[Event]]:
    """Return each request's span, followed by those inside it."""
    seen: dict[int, list[Event]] = {}
    for event in (
        event for (group, _), track in spans(events).items() if group == REQUESTS for event in track
    ):
        if event["name"].startswith("request "):
            row = event["args"]["request"]
            assert row not in seen
            seen[row] = parts = []
        parts.append(event)
    return seen


def end(event: Event) -> Decimal:
    """Return when a span ends."""
    return Decimal(event["ts"] + event["dur"])


def micros(seconds: float) -> Decimal:
    """Return seconds as the file has them."""
    return Decimal(round(seconds * 1e9)) / 1000


@settings(max_examples=60)
@given(simulation=simulations())
def test_spans_of_a_track_nest_and_come_in_order_of_time(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events, _ = written(simulation, tmp_path_factory.mktemp("run") / "run.json")

    for track in spans(events).values():
        open_spans: list[Event] = []
        for event in track:
            while open_spans and end(open_spans[-1]) <= event["ts"]:
                open_spans.pop()
            assert not open_spans or end(event) <= end(open_spans[-1])
            open_spans.append(event)
        assert all(one["ts"] <= other["ts"] for one, other in pairwise(track))


@settings(max_examples=60)
@given(simulation=simulations())
def test_each_request_is_one_span_that_its_parts_fill_exactly(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events, _ = written(simulation, tmp_path_factory.mktemp("run") / "run.json")

    seen = lives(events)
    outcomes = simulation.outcomes
    assert set(seen) | set(outcomes.reasons) == set(range(len(simulation.workload)))
    for row, (whole, *parts) in seen.items():
        edges = [whole["ts"], *map(end, parts)]
        assert [part["ts"] for part in parts] == edges[:-1]
        assert edges[-1] == end(whole)
        assert whole["ts"] == micros(outcomes.arrival[row])
        if outcomes.status[row] == COMPLETED:
            assert end(whole) == micros(outcomes.finish[row])
            assert whole["args"]["status"] == "completed"


@settings(max_examples=60)
@given(simulation=simulations())
def test_counters_are_what_every_step_saw(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events, steps = written(simulation, tmp_path_factory.mktemp("run") / "run.json")

    standing: dict[str, Event] = {}
    found = []
    for event in events:
        if event["ph"] == "C":
            standing[event["name"]] = event["args"]
        elif event["ph"] == "X" and event["pid"] == ENGINE:
            assert event["tid"] == STEPS
            found.append(standing["KV slots"] | standing["requests"] | standing["batch"])
    assert found == [
        step.slots._asdict()
        | {"running": step.running, "waiting": step.waiting, "tokens": step.planned.work.tokens}
        for step in steps
    ]
    pool = simulation.replica.ledger.capacity
    assert {sum(event["args"].values()) for event in events if event["name"] == "KV slots"} <= {pool}


@settings(max_examples=60)
@given(simulation=simulations())
def test_counters_over_time_are_the_ledgers(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events, _ = written(simulation, tmp_path_factory.mktemp("run") / "run.json")

    for counter, names in (("KV slots", CATEGORIES), ("requests", ("running",))):
        points = [event for event in events if event["name"] == counter and event["ph"] == "C"]
        times = [float(point["ts"]) / 1e6 for point in points] + [float(micros(simulation.clock)) / 1e6]
        assert times == sorted(times)
        for name in names:
            total = sum(
                point["args"][name] * (after - before)
                for point, (before, after) in zip(points, pairwise(times), strict=True)
            )
            if points:
                ledger = simulation.replica.ledger.integrals(simulation.clock)
                idle = simulation.replica.ledger.capacity * (times[0] - simulation.replica.ledger.start)
                assert total + (idle if name == "free" else 0) == pytest.approx(ledger[name], abs=1e-4)


@settings(max_examples=60)
@given(simulation=simulations())
def test_there_are_no_more_lanes_than_requests_at_once(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events, _ = written(simulation, tmp_path_factory.mktemp("run") / "run.json")

    whole = [event for event, *_ in lives(events).values()]
    most = max((sum(one["ts"] <= other["ts"] < end(one) for one in whole) for other in whole), default=0)
    assert len({event["tid"] for event in whole}) == most


def test_a_lane_is_free_again_when_a_life_ends_where_another_begins() -> None:
    lanes = Lanes()

    assert [lanes.take(0, 1), lanes.take(0, 2), lanes.take(1, 3), lanes.take(3, 4), lanes.take(2, 5)] == [
        (1, True),
        (2, True),
        (1, False),
        (1, False),
        (2, False),
    ]


def test_rejected_requests_are_points_with_their_reason(tmp_path: Path) -> None:
    events, _ = written(prepare(trace((0, 5, 3), (1, 70, 2))), tmp_path / "run.json")

    (point,) = [event for event in events if event["ph"] == "i"]
    assert (point["name"], point["ts"]) == ("request 1", 1_000_000)
    assert point["args"]["reason"].startswith("prompt of 70 tokens does not fit")


def test_a_pause_between_requests_is_seen_in_the_counters(tmp_path: Path) -> None:
    events, _ = written(prepare(trace((0, 5, 1), (10, 5, 1))), tmp_path / "run.json")

    running = [(event["ts"], event["args"]["running"]) for event in events if event["name"] == "requests"]
    assert running == [(0, 1), (1_000_000, 0), (10_000_000, 1), (11_000_000, 0)]


def test_packed_or_not_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json", "a.json.gz", "b.json.gz")]
    for path in paths:
        written(prepare(trace((0, 5, 3), (0.5, 9, 2))), path)

    one, two, packed, also = [path.read_bytes() for path in paths]
    assert one == two == gzip.decompress(packed)
    assert packed == also


def test_a_run_that_fails_leaves_no_file(tmp_path: Path) -> None:
    timeline = PerfettoTrace(tmp_path / "run.json")
    timeline.attach(prepare(trace((0, 5, 3))))
    timeline.__exit__(RuntimeError, RuntimeError(), None)

    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none/run\.json: cannot be written: No such file"):
        PerfettoTrace(tmp_path / "none" / "run.json")


def test_events_are_written_while_the_run_goes(tmp_path: Path) -> None:
    simulation = prepare(trace(*[(4.0 * i, 5, 3) for i in range(2000)]))
    with PerfettoTrace(tmp_path / "run.json") as timeline:
        timeline.attach(simulation)
        simulation.run()

        (temporary,) = tmp_path.iterdir()
        assert temporary.stat().st_size > 1_000_000
        assert not timeline._lives


def test_the_command_writes_the_timeline_of_its_run(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    made = [{"arrival_s": i / 4, "prompt_len": 40 + i, "output_len": 5} for i in range(12)]
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in made))
    flags = ["--cost", "linear:0.01,1e-5,0", "-o", str(tmp_path / "run")]
    main(["run", str(rows), *flags, "--trace-out", str(tmp_path / "run.json.gz")])

    events = read(tmp_path / "run.json.gz")
    timeline = load_result(tmp_path / "run").timeline
    steps = [event for event in events if event["ph"] == "X" and event["pid"] == ENGINE]
    assert len(steps) == timeline["steps"].sum()
    assert sum(step["args"]["tokens"] for step in steps) == timeline["tokens"].sum()
    assert float(end(steps[-1])) / 1e6 == pytest.approx(timeline["end_s"].iloc[-1])
