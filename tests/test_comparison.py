"""Several policies on the same work: the same figures as alone, for any number of workers."""

from __future__ import annotations

import pytest

from kvsim import InputError, compare, simulate
from kvsim.traces.generate import generate

POLICIES = ["contiguous", "paged", "prefix", "sliding-window:window=64", "paged:preemption=swap"]

SMALL = {"num_gpu_blocks_override": 120, "max_model_len": 2048, "cost": "linear:0.01,1e-4,1e-6"}


def test_comparison_does_not_depend_on_the_number_of_workers() -> None:
    work = generate("chat", 60, rate=2.0, seed=5, turns=3)

    alone, together = (compare(work, POLICIES, jobs=jobs, **SMALL) for jobs in (1, 2))

    for frame in ("summary", "requests", "timeline"):
        ours, theirs = getattr(alone, frame), getattr(together, frame)
        assert ours.to_csv() == theirs.to_csv()
        assert ours.equals(theirs)


@pytest.mark.parametrize("text", POLICIES)
def test_comparison_and_single_run_agree(text: str) -> None:
    work = generate("sharegpt", 40, rate=20.0, seed=3)

    single = simulate(work, text, **SMALL)

    assert compare(work, [text], **SMALL).results[text].summary == single.summary


def test_results_stand_in_the_order_asked_for() -> None:
    work = generate("alpaca", 5, rate=1.0, seed=3)
    seen: list[str] = []

    comparison = compare(work, ["prefix", "paged"], progress=lambda name, _: seen.append(name), **SMALL)

    assert list(comparison.results) == comparison.summary["policy"].tolist() == seen == ["prefix", "paged"]


@pytest.mark.parametrize(
    ("names", "said"), [([], "no policy is named"), (["paged", "paged"], "'paged' is named twice")]
)
def test_policies_must_be_told_apart(names: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare(generate("alpaca", 5, rate=1.0), names, **SMALL)


def test_blocks_of_any_size_are_cut_from_the_same_bytes() -> None:
    comparison = compare(
        generate("alpaca", 20, rate=10.0),
        ["paged", "paged:block_size=64", "contiguous"],
        num_gpu_blocks_override=1025,
        max_model_len=1024,
        measure_capacity=False,
    )

    pools = {result.config["pool"]["kv_bytes"] for result in comparison.results.values()}
    slots = [result.config["pool"]["slots"] for result in comparison.results.values()]

    assert len(pools) == 1
    assert slots == [1024 * 16, 255 * 64, 1025 * 16]
