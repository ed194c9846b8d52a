"""Prefix blocks in CPU memory and on disk: what goes down, what comes back, and what that takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cache_runs import CHAINS, chained, lru_hits, plain_lru, serve, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import run, trace

from kvsim import simulate
from kvsim.cost import LinearCost
from kvsim.errors import InputError
from kvsim.policies.prefix import PrefixPolicy
from kvsim.policies.tier_store import Tier
from kvsim.policies.tiered import TieredPolicy
from kvsim.policy import Policy, Pool
from kvsim.result import Result
from kvsim.testing import check_policy

README = Path(__file__).resolve().parents[1] / "reports" / "README.md"

GIB_A_BLOCK = 2 / 2**30
"""Blocks of 2 tokens of a byte each."""
SLOW = LinearCost(1.0, 0.0, 0.0)
"""A second a step."""


def tiered(cpu: int = 0, disk: int = 0, **parameters: Any) -> TieredPolicy:
    """Return a policy with room for so many blocks of two one-byte tokens behind the GPU."""
    return TieredPolicy(block_size=2, cpu_gib=cpu * GIB_A_BLOCK, disk_gib=disk * GIB_A_BLOCK, **parameters)


def found(policy: TieredPolicy) -> list[tuple[int, ...]]:
    """Return the tokens each row found on the GPU, in CPU memory and on disk."""
    return list(zip(*(tier.found.values() for tier in policy.tiers()), strict=True))


def moved(policy: TieredPolicy) -> list[int]:
    """Return blocks read from and written to CPU memory, then disk."""
    return [each // 2 for tier in policy.tiers()[1:] for each in (tier.read_bytes, tier.written_bytes)]


# -- what goes where ---------------------------------------------------------------------------------

ROWS = ([1, 2], [3, 4], [1, 2])
"""Three blocks on the GPU: the second request drives the first one's out."""


@pytest.mark.parametrize(
    ("policy", "last", "copied"),
    [
        (tiered(cpu=8), (0, 4, 0), [2, 4, 0, 0]),
        (tiered(cpu=8, write="back"), (0, 4, 0), [2, 4, 0, 0]),
        (tiered(cpu=8, write="selective"), (0, 0, 0), [0, 0, 0, 0]),
        (tiered(disk=8), (0, 0, 4), [0, 0, 2, 4]),
        (tiered(cpu=2, disk=8), (0, 0, 4), [0, 6, 2, 4]),
        (tiered(cpu=2, disk=8, write="back"), (0, 4, 0), [2, 4, 0, 2]),
        (tiered(cpu=1), (0, 0, 0), [0, 6, 0, 0]),
        (tiered(), (0, 0, 0), [0, 0, 0, 0]),
    ],
)
def test_what_comes_back_and_what_was_copied_by_hand(
    policy: TieredPolicy, last: tuple[int, ...], copied: list[int]
) -> None:
    work = stored(*ROWS)

    hits = serve(policy, work, 3)

    assert hits == [0, 0, sum(last)]
    assert found(policy) == [(0, 0, 0), (0, 0, 0), last]
    assert moved(policy) == copied


def test_hit_goes_on_behind_what_is_on_the_gpu() -> None:
    work = stored([1, 2], [3, 4], [1, 2, 5])
    policy = tiered(cpu=8)

    # Four blocks: the second request takes the first's deepest.
    assert serve(policy, work, 4) == [0, 0, 4]
    assert found(policy)[-1] == (2, 2, 0)


def test_selective_writes_what_is_hit_on_the_gpu() -> None:
    work = stored([1], [1], [2, 3], [1])
    policy = tiered(cpu=8, write="selective")

    assert serve(policy, work, 3) == [0, 2, 0, 2]
    assert moved(policy)[:2] == [1, 1]


def test_preempted_request_finds_its_tokens_in_cpu_memory() -> None:
    work = trace((0, 5, 9), (0, 5, 9))

    plain, spilled = (run(work, policy, blocks=8) for policy in (PrefixPolicy(block_size=2), tiered(cpu=9)))

    assert plain.counts("preemptions") == spilled.counts("preemptions") == [0, 1]
    assert sum(spilled.counts("recomputed")) < sum(plain.counts("recomputed"))


def test_full_tier_drops_what_was_used_longest_ago() -> None:
    tier = Tier("cpu", 2)

    assert [tier.put([key]) for key in (1, 2, 1, 3)] == [[], [], [], [2]]
    assert len(tier) == 2


# -- what it takes -----------------------------------------------------------------------------------


def ttft(policy: TieredPolicy, *rows: list[int]) -> float:
    """Return the last request's seconds to its first token, in 3 blocks on the GPU and steps of a second."""
    simulation = run(stored(*rows), policy, blocks=4, cost=SLOW, max_num_seqs=1).simulation
    return simulation.outcomes.first_token[-1] - simulation.outcomes.arrival[-1]


LINKS = {"link_gb_per_s": 2e-9, "duplex_gb_per_s": 3e-9, "link_latency_ms": 0.0}
"""Two bytes a second up or down, three in all: a block a second."""
DISK = {"disk_gb_per_s": 1e-9, "disk_latency_ms": 500.0}
"""Half a second and two a block."""


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (tiered(cpu=8, overlap=False, **LINKS), 1 + 2),  # computing, two blocks up
        (tiered(cpu=8, **LINKS), 2),
        (tiered(disk=8, overlap=False, **LINKS, **DISK), 1 + 2 + 4.5),
        (tiered(disk=8, **LINKS, **DISK), 4.5),
        (tiered(cpu=8, overlap=False, **LINKS | {"link_latency_ms": 250.0}), 1 + 2.25),
        (tiered(cpu=8, write="back", overlap=False, **LINKS), 1 + 2 + 2),  # two more down
        (tiered(cpu=8, write="back", **LINKS), 8 / 3),
        (tiered(cpu=8, link_gb_per_s=1e3), 1),
    ],
)
def test_time_to_first_token_by_hand(policy: TieredPolicy, seconds: float) -> None:
    assert ttft(policy, *ROWS) == pytest.approx(seconds, rel=1e-9)


def test_step_without_copies_takes_what_it_computes() -> None:
    for write in ("through", "back"):
        assert ttft(tiered(cpu=8, write=write, link_latency_ms=1e9), [1], [2]) == 1.0


def test_default_link_is_what_was_measured_for_vllm() -> None:
    # 2 MB blocks on H100 over PCIe: 50 GB/s one way, 83.4 both ways (vLLM blog, 2026-01-08).
    policy = TieredPolicy()

    assert (policy.link_gb_per_s, policy.duplex_gb_per_s) == (50.0, 83.4)


@pytest.mark.parametrize("prompt", [1024, 8192, 65_536])
def test_loading_from_cpu_memory_cuts_ttft_as_much_as_vllm_measured(prompt: int) -> None:
    # 2 to 22 times for Llama-3.1-8B on an H100, more for longer prompts (vLLM blog, 2026-01-08). The last request's
    # prompt was computed before and driven out by the one between.
    work = trace(*((at, prompt + 1, 1) for at in (0, 100, 200)), ids=[[1], [2], [1]], block_tokens=prompt)
    settings = {
        "gpu": "h100-sxm",
        "num_gpu_blocks_override": prompt // 16 + 2,
        "max_num_batched_tokens": 1 << 17,
    }

    computed, loaded = (
        simulate(work, policy, measure_capacity=False, **settings).requests["ttft_ms"].iloc[2]
        for policy in ("prefix", "tiered:overlap=false")
    )

    assert 2 < computed / loaded < 22


# -- laws --------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(rows=CHAINS, spare=st.integers(0, 6))
def test_cpu_memory_written_through_hits_as_one_lru_of_its_size(rows: list[list[int]], spare: int) -> None:
    longest = max(map(len, rows))

    hits = serve(tiered(cpu=longest + 1 + spare), stored(*rows), longest + 1)

    assert [tokens // 2 for tokens in hits] == lru_hits(plain_lru(longest + 1 + spare), chained(rows))


@settings(max_examples=80)
@given(
    rows=CHAINS,
    cpu=st.integers(0, 5),
    disk=st.integers(0, 8),
    write=st.sampled_from(["through", "selective", "back"]),
)
def test_tiers_never_cost_a_hit(rows: list[list[int]], cpu: int, disk: int, write: str) -> None:
    work, policy = stored(*rows), tiered(cpu, disk, write=write)
    hits, plain = (
        serve(each, work, max(map(len, rows)) + 1) for each in (policy, PrefixPolicy(block_size=2))
    )

    assert all(more >= less for more, less in zip(hits, plain, strict=True))
    assert [sum(row) for row in found(policy)] == hits
    read = [tier.read_bytes for tier in policy.tiers()]
    assert read == [0, *(sum(tier.found.values()) for tier in policy.tiers()[1:])]


@pytest.mark.parametrize("write", ["through", "selective", "back"])
@pytest.mark.parametrize(("cpu", "disk"), [(64, 1024), (0, 0), (1e-6, 3e-6), (0, 1e-6), (3e-7, 0)])
def test_every_setting_passes_the_public_checks(write: str, cpu: float, disk: float) -> None:
    check_policy(TieredPolicy(write=write, cpu_gib=cpu, disk_gib=disk, block_size=4), seed=1, rounds=6)
    check_policy(TieredPolicy(write=write, cpu_gib=cpu, overlap=False), seed=2, rounds=3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"write": "never"}, "write must be one of through, selective, back, got 'never'"),
        ({"cpu_gib": -1.0}, "cpu_gib must be a number from 0 up, got -1.0"),
        ({"disk_gib": float("inf")}, "disk_gib must be a number from 0 up, got inf"),
        ({"link_gb_per_s": 0.0}, "link_gb_per_s must be above 0 GB/s, got 0.0"),
        ({"disk_latency_ms": float("nan")}, "disk_latency_ms must be a number from 0 up, got nan"),
    ],
)
def test_parameter_that_cannot_work_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TieredPolicy(**parameters).reset(Pool.of_tokens(640))


# -- what is reported --------------------------------------------------------------------------------


def summary_of(policy: Policy) -> dict[str, Any]:
    """Return the summary of the three requests."""
    simulation = run(stored(*ROWS), policy, blocks=4, cost=SLOW).simulation
    return Result.of(simulation, {}).summary


def test_summary_tells_hits_and_ttft_by_tier() -> None:
    summary = summary_of(tiered(cpu=8, overlap=False, **LINKS))

    assert summary["cached_tokens"] == summary["cached_tokens_cpu"] == 4
    assert summary["prefix_cache_hit_rate_cpu"] == summary["prefix_cache_hit_rate"] == 4 / 15
    assert (summary["requests_nowhere"], summary["requests_cpu"], summary["requests_gpu"]) == (2, 1, 0)
    assert (summary["mean_ttft_ms_nowhere"], summary["mean_ttft_ms_cpu"]) == (1000.0, 3000.0)
    assert summary["mean_ttft_ms_disk"] is None
    assert (summary["read_bytes_cpu"], summary["written_bytes_cpu"]) == (4, 8)


def test_summary_has_exactly_the_documented_figures_more_than_that_of_one_tier() -> None:
    text = README.read_text(encoding="utf-8").partition("\n## Tiers")[2].partition("\n## ")[0]
    table = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)

    more = set(summary_of(tiered(cpu=8))) - set(summary_of(PrefixPolicy(block_size=2)))

    assert {name for cell in table for name in re.findall(r"`(\w+)`", cell)} == more
