"""A memory map says what the ledger says, stays small, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import Row, prepare, trace

from kvsim.memory_cells import USES, Splitter, slots_by_use
from kvsim.memory_map import MapRecorder
from kvsim.placement import Placement, Stretch
from kvsim.policies.contiguous import ContiguousPolicy
from kvsim.policy import Span
from kvsim.replica import Replica, StepRecord
from kvsim.request import Sequence
from kvsim.result import load_result
from kvsim.run import simulate
from kvsim.traces import Trace
from kvsim.traces.generate import generate

GROUPS = '[{"type":"full"},{"type":"swa","window":8,"block_size":4}]'
POLICIES: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "contiguous:placement=best-fit:reservation=oracle": {},
    "contiguous:placement=buddy:reservation=pow2": {"pool": {"spans": (Span(None, 1), Span(6, 3))}},
    "paged:block_size=4": {},
    "paged:block_size=8": {"pool": {"spans": (Span(8, 2), Span(None, 1))}},
    "prefix:block_size=4": {},
    "sliding-window:block_size=4:window=8": {},
    "sliding-window:block_size=4:window=8:sinks=3": {},
    f"sliding-window:block_size=4:kv_groups={GROUPS}": {},
    "radix": {"blocks": 6},
    "radix:page_size=4:eviction=lfu:block_size=4": {"pool": {"spans": (Span(None, 1), Span(6, 3))}},
    "virtual:page_kib=64": {},
}
PAGES: list[Row] = [(0.0, 9, 20), (0.0, 7, 5), (1.0, 8, 20), (12.0, 5, 9)]
"""Three rows grow beside each other; the second ends first, and the last takes its places."""
ROWS = st.lists(
    st.tuples(st.integers(0, 30).map(float), st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=12
)


def work(rows: list[Row]) -> Trace:
    """Sort rows by arrival and let every third share its content."""
    rows = sorted(rows)
    ids = [[row % 3 if number % 2 else 100 * row + number for number in range(size // 4)]
           for row, (_, size, _) in enumerate(rows)]  # fmt: skip
    return trace(*rows, ids=ids, block_tokens=4)


def split_now(replica: Replica) -> dict[str, int]:
    """Return the split of the pool by who lies where."""
    jobs = list(replica.batch.running.values())
    for job in jobs:
        job.computed = replica.batch.length(job)
    placement = replica.policy.placements(jobs, replica.waiting.head())
    assert placement is not None
    return slots_by_use(placement, jobs, replica.policy.capacity)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=12, deadline=None)
@given(rows=ROWS)
def test_the_split_by_place_is_the_ledgers(policy: str, rows: list[Row]) -> None:
    simulation = prepare(work(rows), policy, **{"blocks": 24} | POLICIES[policy])
    replica = simulation.replica
    pairs: list[tuple[dict[str, int], dict[str, int]]] = []

    def look(record: StepRecord) -> None:
        # A chunk is told as the step saw it, and a prompt that is done has no chunk any more.
        if not record.planned.work.prefills:
            found = split_now(replica)
            found["live"] += found.pop("shared")
            pairs.append((found, record.slots._asdict()))

    replica.watch = look
    simulation.run()

    assert all(found == told for found, told in pairs)


def recorded(policy: str, rows: list[Row], most: int = 256, **given: Any) -> pd.DataFrame:
    simulation = prepare(work(rows), policy, **given)
    recorder = MapRecorder(simulation, most)
    simulation.run()
    columns = recorder.columns()
    assert columns is not None
    return pd.DataFrame(columns)


@settings(max_examples=20, deadline=None)
@given(rows=ROWS, policy=st.sampled_from(list(POLICIES)))
def test_patches_tile_the_pool_over_the_whole_run(rows: list[Row], policy: str) -> None:
    simulation = prepare(work(rows), policy, **{"blocks": 24} | POLICIES[policy])
    recorder = MapRecorder(simulation)

    simulation.run()
    frame = pd.DataFrame(recorder.columns())

    area = ((frame["end_s"] - frame["start_s"]) * frame["slots"]).sum()
    assert area == pytest.approx((simulation.clock - min(rows)[0]) * simulation.replica.policy.capacity)
    assert set(frame["use"]) <= set(USES)
    assert (frame["end_s"] > frame["start_s"]).all()


@settings(max_examples=20, deadline=None)
@given(rows=ROWS, policy=st.sampled_from(list(POLICIES)))
def test_recording_changes_nothing(rows: list[Row], policy: str) -> None:
    plain, watched = (prepare(work(rows), policy, **{"blocks": 24} | POLICIES[policy]) for _ in range(2))
    MapRecorder(watched)

    plain.run()
    watched.run()

    assert plain.outcomes.finish.tobytes() == watched.outcomes.finish.tobytes()
    assert plain.replica.ledger.integrals(plain.clock) == watched.replica.ledger.integrals(watched.clock)


def test_a_contiguous_pool_by_hand() -> None:
    frame = recorded("contiguous", [(0.0, 2, 3)], blocks=1, max_model_len=8, pool=None)

    # 16 slots; after the first of three steps 2 tokens are there, 2 to come, and the rest of 8 never used.
    first = frame[frame["start_s"] == 0].sort_values("slot")
    assert first["slots"].tolist() == [1] * 16
    assert first["use"].tolist() == ["live"] * 2 + ["reserved"] * 2 + ["internal"] * 4 + ["free"] * 8
    assert first["request"].fillna(-1).tolist() == [0] * 8 + [-1] * 8


def test_shared_blocks_are_told_from_those_of_one_request() -> None:
    rows: list[Row] = [(0.0, 9, 6), (2.0, 9, 6)]
    simulation = prepare(trace(*rows, ids=[[1, 2], [1, 2]], block_tokens=4), "prefix:block_size=4", blocks=9)
    recorder = MapRecorder(simulation)

    simulation.run()
    frame = pd.DataFrame(recorder.columns())

    assert {"live", "shared", "reusable", "free"} <= set(frame["use"])
    assert frame.loc[frame["use"] == "shared", "request"].isna().all()


def test_a_pause_shows_the_pool_as_it_was_left() -> None:
    frame = recorded("paged:block_size=4", [(0.0, 8, 2), (100.0, 8, 2)], blocks=9)

    resting = frame[(frame["start_s"] < 50) & (frame["end_s"] > 50)]

    assert set(resting["use"]) == {"free"}


def test_a_hole_too_small_for_the_next_in_line_is_external() -> None:
    frame = recorded("contiguous", [(0.0, 2, 8), (0.0, 2, 8)], blocks=1, max_model_len=12)

    assert frame.loc[frame["use"] == "external", "slot"].unique().tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize("outputs", [5, 50, 500])
def test_a_map_has_as_many_columns_at_most_however_long_the_run(outputs: int) -> None:
    frame = recorded("paged", [(0.0, 4, outputs)], most=16, blocks=200, max_model_len=1000)

    times = np.unique(frame[["start_s", "end_s"]])
    assert len(times) - 1 <= 16
    assert times[-1] == outputs


def test_uses_have_their_share_of_the_cells_of_a_column() -> None:
    rng = np.random.default_rng(0)
    size = np.full(300, 10, np.int64)
    address = np.sort(rng.choice(1000, 300, replace=False)) * 10
    half = rng.random(300) < 0.4
    placement = Placement((), Stretch(address[half], size[half]), Stretch(address[~half], size[~half]))

    use, holder = Splitter(10_000, 200).cells(placement, [])

    counts = np.bincount(use, minlength=len(USES)) / 200
    told = slots_by_use(placement, [], 10_000)
    assert all(abs(share - told[name] / 10_000) <= 2 / 200 for name, share in zip(USES, counts, strict=True))
    assert (holder == -1).all()


def test_no_cell_shows_what_is_not_in_it() -> None:
    placement = Placement((), Stretch(np.array([40]), np.array([5])))

    use, _ = Splitter(100, 10).cells(placement, [])

    assert [USES[place] for place in use.tolist()].count("reusable") <= 1
    assert all(USES[place] == "free" for cell, place in enumerate(use.tolist()) if cell != 4)


class Silent(ContiguousPolicy):
    """A policy that does not say what lies where."""

    name = "silent"

    def placements(self, running: Iterable[Sequence], waiting: Sequence | None) -> None:  # type: ignore[override]
        """Say nothing."""
        del running, waiting


def test_a_policy_that_says_nothing_has_no_map() -> None:
    result = simulate(generate("chat", 5, 1.0, 0), Silent(), memory_map=True, measure_capacity=False)

    assert result.memory_map is None


@pytest.mark.parametrize("policy", ["radix", "radix:page_size=4", "virtual:page_kib=64"])
def test_a_page_keeps_its_place_while_its_request_runs(policy: str) -> None:
    simulation = prepare(trace(*PAGES), policy, blocks=9)
    replica = simulation.replica
    seen: dict[tuple[int, int], set[int]] = {}

    def look(record: StepRecord) -> None:
        placement = replica.policy.placements(list(replica.batch.running.values()), None)
        assert placement is not None
        (held,) = placement.held
        assert len(set(held.address.tolist())) == len(held.address)
        for row, first, address in zip(*(held[place].tolist() for place in (4, 3, 1)), strict=True):
            seen.setdefault((row, first), set()).add(address)

    replica.watch = look
    simulation.run()
    assert {row for row, _ in seen} == {0, 1, 2, 3}
    assert all(len(addresses) == 1 for addresses in seen.values())


def test_a_map_survives_saving(tmp_path: Path) -> None:
    work_ = generate("agent", 20, 1.0, 0, turns=2)
    result = simulate(work_, "prefix", gpu="a100-40-sxm", memory_map=True, measure_capacity=False)

    found = load_result(result.save(tmp_path / "run"))

    assert result.memory_map is not None
    assert result.itl is not None
    pd.testing.assert_frame_equal(found.memory_map, result.memory_map)
    pd.testing.assert_frame_equal(found.itl, result.itl)


def test_a_run_without_a_map_writes_none(tmp_path: Path) -> None:
    result = simulate(generate("chat", 5, 1.0, 0), "paged", measure_capacity=False)

    folder = result.save(tmp_path / "run")

    assert not (folder / "memory_map.parquet").exists()
    assert load_result(folder).memory_map is None
