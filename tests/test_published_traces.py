"""Facts of public traces, and runs of them, as `published.toml` lists them."""

from __future__ import annotations

import pytest
from published import TRACES, assert_as_documented

from kvsim.validate_table import Check, all_checks

ROWS = {
    check.id: check
    for check in all_checks()
    if "trace" in check.parameters and (TRACES / check.parameters["trace"]).exists()
}
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not TRACES.is_dir(), reason="the folder ../shared with public traces is not there"),
]


@pytest.mark.parametrize("check", ROWS.values(), ids=ROWS)
def test_trace_gives_what_was_published(check: Check) -> None:
    assert_as_documented(check)


def test_the_traces_that_are_there_are_used() -> None:
    folders = {check.parameters["trace"].partition("/")[0] for check in ROWS.values()}

    assert folders == {"azure2023", "etalon", "kv-cache-tester", "llmservingsim", "mooncake", "vidur"}
