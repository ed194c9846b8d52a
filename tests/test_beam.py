"""Beams die and are forked by a seeded rule: the same for everyone who asks, rarer as answers grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.beam import Beam
from kvsim.errors import InputError

beams = st.builds(
    Beam,
    width=st.integers(2, 6),
    turnover=st.sampled_from([0.0, 0.5, 4.0, 1e9]),
    seed=st.integers(0, 3),
)


@given(beams, st.integers(0, 5), st.integers(0, 300))
def test_every_dead_beam_goes_on_from_one_that_lives(beam: Beam, row: int, output: int) -> None:
    parents = beam.lineage(row).parents(output)

    if parents is not None:
        assert len(parents) == beam.width
        assert all(parents[parent] == parent for parent in parents)
        assert parents != tuple(range(beam.width))


@given(beams, st.integers(0, 5), st.lists(st.integers(0, 300), max_size=9))
def test_forks_do_not_depend_on_who_asks_or_in_which_order(beam: Beam, row: int, outputs: list[int]) -> None:
    one, other = beam.lineage(row), beam.lineage(row)

    asked = [one.parents(output) for output in outputs]

    assert asked == [other.parents(output) for output in reversed(outputs)][::-1]


def test_first_output_is_where_the_beams_part_and_forks_nobody() -> None:
    lineage = Beam(width=4, turnover=1e9).lineage(0)

    assert [lineage.parents(output) for output in (0, 1)] == [None, None]


def test_all_but_one_die_where_the_probability_is_one() -> None:
    parents = Beam(width=4, turnover=4.0).lineage(7).parents(3)

    assert parents is not None
    assert len(set(parents)) == 1


def test_deaths_at_an_output_are_turnover_over_its_number() -> None:
    beam = Beam(width=4, turnover=4.0)
    dead = 0
    for row in range(2000):
        parents = beam.lineage(row).parents(40)
        dead += sum(place != parent for place, parent in enumerate(parents or ()))

    # A tenth of 8,000 beams, within four standard deviations.
    assert abs(dead - 800) < 4 * (8000 * 0.1 * 0.9) ** 0.5


@given(beams, st.integers(0, 5), st.integers(1, 90), st.integers(0, 90))
def test_next_fork_is_the_first_one_that_is_made(beam: Beam, row: int, after: int, more: int) -> None:
    lineage = beam.lineage(row)

    found = lineage.next_fork(after, after + more)

    assert all(lineage.parents(output) is None for output in range(after + 1, found))
    assert found == after + more or lineage.parents(found) is not None


def test_seed_and_row_change_the_forks() -> None:
    def forks(seed: int, row: int) -> list[object]:
        lineage = Beam(width=4, turnover=4.0, seed=seed).lineage(row)
        return [lineage.parents(output) for output in range(50)]

    assert forks(0, 0) != forks(1, 0)
    assert forks(0, 0) != forks(0, 1)


@pytest.mark.parametrize(("setting", "value"), [("turnover", -1.0), ("turnover", float("nan")), ("seed", -1)])
def test_numbers_that_mean_nothing_are_refused(setting: str, value: float) -> None:
    with pytest.raises(InputError, match=f"beam_{setting} must be .* got {value}"):
        Beam(**{"width": 2, "turnover": 4.0, setting: value})
