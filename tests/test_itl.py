"""The distribution of inter-token latencies is kept small and true."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvsim.itl import LEVELS, itl_columns


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 50)), min_size=1, max_size=40))
def test_few_gaps_are_all_kept(gaps: list[tuple[float, int]]) -> None:
    seconds, counts = (np.array(column) for column in zip(*sorted(gaps), strict=True))

    found = itl_columns(seconds, counts)

    assert found["itl_ms"].tolist() == (seconds * 1e3).tolist()
    assert found["share"][-1] == 1.0


def test_of_many_gaps_quantiles_are_kept() -> None:
    seconds = np.sort(np.random.default_rng(0).exponential(size=50_000))

    found = itl_columns(seconds, np.ones(50_000, np.int32))

    assert len(found["share"]) <= len(LEVELS)
    exact = np.array([np.mean(seconds * 1e3 <= value) for value in found["itl_ms"]])
    assert np.allclose(exact, found["share"])
    assert found["itl_ms"][-1] == seconds.max() * 1e3


def test_without_gaps_there_is_nothing() -> None:
    found = itl_columns(np.empty(0), np.empty(0, np.int32))

    assert {name: len(column) for name, column in found.items()} == {"share": 0, "itl_ms": 0}
