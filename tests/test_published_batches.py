"""Published batch sizes, memory splits, latencies and queues against simulations, as `published.toml` lists them."""

from __future__ import annotations

import pytest
from published import assert_as_documented, outcome, rows_of

from kvsim.validate_table import Check

MEASURES = (
    "saturated", "ranking", "replay", "replay_ratio", "fixed_service", "worked_example", "workload_facts",
)  # fmt: skip
ROWS = {
    name: check
    for name, check in rows_of(*MEASURES).items()
    if "trace" not in check.parameters and not check.slow
}
LIVE = {name: check for name, check in rows_of("saturated").items() if check.figure == "live_each"}


@pytest.mark.parametrize("check", ROWS.values(), ids=ROWS)
def test_simulation_gives_what_was_published(check: Check) -> None:
    assert_as_documented(check)


@pytest.mark.parametrize("check", LIVE.values(), ids=LIVE)
def test_same_live_tokens_a_request_in_every_system(check: Check) -> None:
    # Derived from Fig. 2 and 13a: a policy cannot change how long requests are.
    found = outcome(check).number

    assert isinstance(found, float)
    assert found == pytest.approx(450, rel=0.08)
