"""What a server's step has beside its kernels' own times: gaps between them, and graphs up to a size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import synthetic_device as device
from small_tables import SMALL

from kvsim.calibration.cost import CAPTURED, ProfileCost
from kvsim.calibration.imported import GAPS, with_gaps
from kvsim.calibration.profile import Profile
from kvsim.calibration.step_price import StepPrice
from kvsim.cost import Step
from kvsim.policy import Span

PLAIN = device.profile()
GAPPED = replace(PLAIN, host={"captured_gap": 1e-6, "eager_gap": 3e-6, "source": "test"})


def seconds(profile: Profile, decodes: int, most_captured: int = CAPTURED[-1]) -> float:
    cost = ProfileCost(profile, (Span(None, SMALL.layers),), page=16, most_captured=most_captured)
    context = 100 * decodes
    return cost.seconds(Step(decodes, context, decodes, (context,)))


def test_a_step_takes_a_gap_a_kernel_longer() -> None:
    calls = StepPrice(PLAIN.fits, PLAIN.model).calls

    for decodes, gap in ((8, 1e-6), (CAPTURED[-1] + 1, 3e-6)):
        assert seconds(GAPPED, decodes) - seconds(PLAIN, decodes) == pytest.approx(calls * gap)


def test_graphs_reach_as_far_as_the_server_captures_them() -> None:
    assert seconds(GAPPED, 64, most_captured=64) == seconds(GAPPED, 64)
    assert seconds(GAPPED, 72, most_captured=64) > seconds(GAPPED, 72)


def test_gaps_stand_beside_host_times_with_both_sources() -> None:
    found = with_gaps({"step": 1e-4, "source": "a table"})

    assert (found["step"], found["captured_gap"]) == (1e-4, GAPS["captured_gap"])
    assert str(found["source"]).startswith("a table; gaps between kernels")
