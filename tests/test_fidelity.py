"""What the fidelity check does with its budget, its steps and its errors, on a device whose times are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.calibration.fidelity import FidelitySession, Outcome, Planned, TimedStep, in_turn
from kvsim.calibration.fidelity_errors import ALL, deviations, gate_failures, weights, worst
from kvsim.calibration.fidelity_executor import Executable
from kvsim.calibration.fidelity_record import fidelity_record, step_rows
from kvsim.calibration.fidelity_steps import Kind, Scheduled, ScheduledStep, kind_of, spread
from kvsim.calibration.numeric_check import BackendRefusedError
from kvsim.calibration.readings import Readings
from kvsim.calibration.session import Progress
from kvsim.calibration.timer import Timing
from kvsim.cost import Step
from kvsim.errors import InputError


def step(number: int, kind: Kind = "decode") -> ScheduledStep:
    sequences = (Scheduled(0, 1, 9, True, ()), Scheduled(1, 4, 7, False, ()))
    return ScheduledStep(number, kind, sequences, Step(5, 16, 1, (9,)))


def planned(
    layout: str, kind: Kind, count: int, population: int = 0, predicted: float = 1e-3
) -> list[Planned]:
    return [Planned(layout, step(n, kind), predicted, True, population or count) for n in range(count)]


def timed(each: Planned, seconds: float) -> TimedStep:
    return TimedStep(each, (seconds * 1e9,), "graph", 8, ("triton",), None)


@dataclass
class MadeUp:
    """Executes nothing; takes `factor` times what was predicted."""

    factor: float = 1.25
    events: list[object] = field(default_factory=list)
    fails: Callable[[int], BaseException | None] = lambda turn: None
    now: float = 0.0

    def check(self, layout: str) -> float:
        self.events.append(f"check {layout}")
        return 1e-3

    def prepare(self, layout: str, step: ScheduledStep) -> Executable:
        turn = sum(not isinstance(event, str) for event in self.events)
        failure = self.fails(turn)
        self.events.append((layout, step.kind, step.number))
        if failure is not None:
            raise failure
        return Executable(lambda _: None, "graph", 8, ("triton",))

    def measure(
        self, call: Callable[[int], object], calls: int, repeats: int = 3, eager: bool = False
    ) -> Timing:
        self.now += 1.0
        readings = Readings(sm_mhz=(1500.0, 1400.0))
        return Timing((1e6 * self.factor,) * repeats, "eager", calls, readings)

    def run(self, plan: Sequence[Planned], budget: float = 1e3, **settings: Any) -> Outcome:
        session = FidelitySession(
            executor=self, timer=self, planned=plan, budget=budget, clock=lambda: self.now, **settings
        )  # fmt: skip
        return session.run()


PLAN = [
    *planned("paged 16", "decode", 6, population=600), *planned("paged 16", "mixed", 3, population=3),
    *planned("prefix 16", "decode", 2),
]  # fmt: skip


def test_numbers_are_checked_in_every_layout_before_anything_is_timed() -> None:
    device = MadeUp()

    outcome = device.run(PLAN)

    assert device.events[:2] == ["check paged 16", "check prefix 16"]
    assert len(outcome.steps) == 11
    assert outcome.checks == {"paged 16": 1e-3, "prefix 16": 1e-3}
    assert (outcome.drift, outcome.remaining, outcome.is_interrupted) == (0.0, 0, False)


def test_a_known_device_gives_its_error_exactly() -> None:
    outcome = MadeUp(factor=1.25).run(PLAN)

    for each in deviations(outcome.steps):
        assert (each.mape, each.bias, each.total, each.p95) == pytest.approx((0.2, -0.2, -0.2, 0.2))
        assert (each.predicted, each.measured) == pytest.approx((1e-3, 1.25e-3))


def test_when_the_budget_ends_every_layout_and_kind_has_had_its_turn() -> None:
    outcome = MadeUp().run(PLAN, budget=7.5)

    counts = {(each.layout, each.kind): each.steps for each in deviations(outcome.steps)}
    assert (counts["paged 16", "decode"], counts["paged 16", "mixed"], counts["prefix 16", "decode"]) == (
        2,
        2,
        2,
    )
    assert outcome.remaining == 5
    assert outcome.warnings == ("the budget of 7.5 s ended after 6 of 11 steps",)


def test_ctrl_c_keeps_what_was_measured() -> None:
    device = MadeUp(fails=lambda turn: KeyboardInterrupt() if turn == 5 else None)

    outcome = device.run(PLAN)

    assert outcome.is_interrupted
    assert (len(outcome.steps), outcome.remaining) == (4, 7)


def test_a_step_that_fails_is_named_and_left_out() -> None:
    device = MadeUp(fails=lambda turn: RuntimeError("out of memory\nat 0x0") if turn == 2 else None)

    outcome = device.run(PLAN)

    assert len(outcome.steps) == 10
    assert any(line.endswith("could not be timed: RuntimeError: out of memory") for line in outcome.warnings)


def test_a_device_that_fails_always_is_not_asked_for_ever() -> None:
    device = MadeUp(fails=lambda turn: RuntimeError("dead"))

    with pytest.raises(InputError, match=r"5 steps in a row failed; step \d of .* RuntimeError: dead"):
        device.run(PLAN)


def test_a_layout_whose_numbers_are_wrong_ends_it() -> None:
    class Wrong(MadeUp):
        def check(self, layout: str) -> float:
            raise BackendRefusedError(layout)

    with pytest.raises(BackendRefusedError, match="paged 16"):
        Wrong().run(PLAN)


def test_drift_is_told() -> None:
    class Slowing(MadeUp):
        def measure(self, *arguments: Any, **settings: Any) -> Timing:
            self.factor += 0.01
            return super().measure(*arguments, **settings)

    outcome = Slowing().run(PLAN)

    assert outcome.drift == pytest.approx(0.11 / 1.27)
    assert "drift: the first step took +8.7% at the end" in outcome.warnings


def test_steps_at_a_slow_clock_are_counted() -> None:
    class Throttled(MadeUp):
        def measure(self, *arguments: Any, **settings: Any) -> Timing:
            found = super().measure(*arguments, **settings)
            clock = 1000.0 if self.now == 4 else 1500.0
            return found._replace(readings=Readings(sm_mhz=(clock, clock)))

    assert Throttled().run(PLAN).warnings == ("1 steps ran under 90% of the median clock, 1500 MHz",)


def test_progress_counts_steps_and_names_them() -> None:
    seen: list[Progress] = []

    MadeUp().run(PLAN, report=seen.append)

    assert seen[0].what == "checking paged 16"
    assert [(each.done, each.total) for each in seen[2:]] == [(done, 11) for done in range(11)]
    assert seen[-1].what.partition(", ")[0] in ("paged 16", "prefix 16")


def test_the_total_weighs_steps_by_those_they_stand_for() -> None:
    steps = [
        timed(planned("paged 16", "decode", 1, population=99, predicted=1.0)[0], 1.0),
        timed(planned("paged 16", "mixed", 1, population=1, predicted=2.0)[0], 1.0),
    ]

    row = next(each for each in deviations(steps) if (each.layout, each.kind) == ("paged 16", ALL))
    assert weights(steps) == [99.0, 1.0]
    assert row.total == pytest.approx(101 / 100 - 1)
    assert (row.mape, row.bias, row.population) == (0.5, 0.5, 100)


def test_the_worst_come_first_whatever_their_sign() -> None:
    steps = [timed(each, seconds) for each, seconds in zip(PLAN, (1e-3, 2e-3, 9e-4), strict=False)]

    assert [each.seconds for each in worst(steps, 2)] == pytest.approx([2e-3, 9e-4])


def test_gates_name_what_is_too_far_off() -> None:
    steps = MadeUp(factor=1.25).run(PLAN).steps

    assert gate_failures(steps, decode=25, total=25) == []
    assert gate_failures(steps, decode=None, total=None) == []
    assert gate_failures(steps, decode=3, total=None) == [
        "decode steps are off by 20.0% on average, allowed 3 %"
    ]
    assert gate_failures(steps, decode=None, total=2) == [
        f"the total time of {name} is off by -20.0%, allowed ±2 %"
        for name in ("paged 16", "prefix 16", "all layouts")
    ]


def test_nothing_measured_gives_no_row() -> None:
    assert deviations([]) == []
    assert gate_failures([], decode=0, total=0) == []


def test_a_record_holds_errors_and_rows_hold_steps() -> None:
    outcome = MadeUp().run(PLAN)

    record = fidelity_record(outcome, {"profile": "p"}, ["late"], representative=False)
    rows = step_rows(outcome.steps)
    assert (record["format"], record["profile"], record["representative"]) == ("kvsim-fidelity", "p", False)
    assert (record["failures"], record["steps"], len(record["worst"])) == (["late"], 11, 5)
    assert [row["step"] for row in rows[:6]] == [0, 1, 2, 3, 4, 5]
    assert rows[0] | {"weight": 100.0, "prefills": 1, "rows": 8, "mode": "graph", "sm_mhz": 1400.0} == rows[0]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["decode", "mixed"])), max_size=30))
def test_taking_turns_visits_every_step_once(each: list[tuple[str, Kind]]) -> None:
    plan = [Planned(layout, step(number, kind), 1.0, True, 1) for number, (layout, kind) in enumerate(each)]

    order = in_turn(plan, 0)
    first = [(plan[place].layout, plan[place].step.kind) for place in order[: len(set(each))]]
    assert sorted(order) == list(range(len(plan)))
    assert len(set(first)) == len(set(each))


@given(st.integers(1, 200), st.integers(1, 50))
def test_steps_are_taken_over_the_whole_run(count: int, most: int) -> None:
    taken = spread(range(count), most)

    assert len(taken) == len(set(taken)) == min(count, most)
    assert taken == sorted(taken)
    if most > 1:
        assert (taken[0], taken[-1]) == (0, count - 1)


@pytest.mark.parametrize(
    ("rows", "hits", "kind"),
    [
        ([(1, 9, True)], 0, "decode"),
        ([(1, 9, True), (4, 4, False)], 1, "mixed"),
        ([(4, 4, False), (2, 2, False)], 0, "prompt"),
        ([(4, 4, False), (2, 6, False)], 0, "chunk"),
        ([(2, 6, False)], 1, "prefix hit"),
    ],
)
def test_steps_are_named_by_what_they_compute(
    rows: list[tuple[int, int, bool]], hits: int, kind: Kind
) -> None:
    sequences = [Scheduled(0, tokens, length, is_decode, ()) for tokens, length, is_decode in rows]

    assert kind_of(sequences, hits) == kind
