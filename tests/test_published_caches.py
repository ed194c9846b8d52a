"""Published orders, swaps and tiers: the rows without a trace, and the measures on what can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from published import assert_as_documented, rows_at, rows_of

from kvsim.cli.validate_caches import eviction_order, shared_prefixes, swap_or_recompute, tier_gain
from kvsim.validate_table import Check

ROWS = {
    name: check
    for name, check in (rows_at("kvsim.cli.validate_caches") | rows_of("recomputed_window")).items()
    if "trace" not in check.parameters
}


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """Write two blocks of which one comes often, then eight others, then the often used again, over and over."""
    rows = [[0], [0], [0], *([block] for block in range(1, 9)), [0]] * 3
    lines = [
        f'{{"timestamp": {1000 * at}, "input_length": 600, "output_length": 1, "hash_ids": [{row[0]}, {100 + at}]}}'
        for at, row in enumerate(rows)
    ]
    path = tmp_path / "mooncake.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("check", ROWS.values(), ids=ROWS)
def test_measure_gives_what_was_published(check: Check) -> None:
    assert_as_documented(check)


def test_what_is_used_often_outlives_a_flood_of_new_blocks_by_lfu_only(twice: Path) -> None:
    found = eviction_order(trace=twice, blocks=4, evictions=["lfu", "lru"])

    assert found["order"] == ("lru", "lfu")
    assert found["lfu"] > found["lru"] > 0  # type: ignore[operator]


def test_tiers_find_what_the_gpu_let_go(twice: Path) -> None:
    found = tier_gain(
        trace=twice,
        cpu_gib=1.0,
        model="llama-3.1-8b",
        gpu="h100-sxm",
        num_gpu_blocks_override=5,
        max_model_len=1024,
    )

    assert 0 < found["without"] < found["with"]  # type: ignore[operator]
    assert found["throughput"] >= 1  # type: ignore[operator]


def test_one_prefix_is_found_by_everybody_but_the_first() -> None:
    found = shared_prefixes(
        prefixes=1, questions=5, prefix=100, question=10, max_num_seqs=1, model="llama-2-7b"
    )

    assert (found["of_optimum"], found["over_fcfs"]) == (1, 1)


def test_free_copies_make_swap_the_same_in_every_block_size() -> None:
    settings = {"tokens": 256, "link_gb_per_s": 25.0, "model": "opt-13b", "gpu": "a100-40-sxm"}

    free = [swap_or_recompute(block_sizes=[size], copy_us=0.0, **settings)["ratio"] for size in (1, 256)]

    assert free[0] == pytest.approx(free[1])
