"""Random small cases for hypothesis: rows and a configuration, tight on purpose.

Arrivals and think times are multiples of 2⁻¹⁰ and costs are powers of two, so that sums of times are exact in
doubles in any order. Pools hold one request of max_model_len (L4) and little more, so that preemptions are
frequent; a few are smaller, and then requests may be stuck or rejected.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from reference.contents import Row, output_ranges, prompt_ranges
from reference.groups import grain, make_groups
from reference.loop import DEFAULTS
from reference.paged import PagedMemory

Case = tuple[list[Row], dict[str, Any]]
TICK = 2.0**-10

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
"""For tests on these cases: no test depends on how busy the machine is."""


def chance(one_in: int) -> st.SearchStrategy[bool]:
    """Draw True once in so many."""
    return st.integers(1, one_in).map(lambda value: value == one_in)


@st.composite
def groups(draw: st.DrawFn, block_size: int) -> list[dict[str, Any]]:
    """Draw one to three groups, of mixed kinds in half of the cases, and often of mixed block sizes."""
    full = st.just({"type": "full"})
    window = st.integers(1, 20).map(lambda width: {"type": "swa", "window": width})
    kinds = draw(st.sampled_from([full, full | window, full | window, window]))
    specs = [dict(spec) for spec in draw(st.lists(kinds, min_size=draw(st.integers(1, 2)), max_size=3))]
    if len(specs) > 1 and draw(chance(2)):
        for spec in specs:
            spec["block_size"] = block_size * draw(st.sampled_from([1, 1, 2, 3]))
    return specs


def retention(aligned: int) -> st.SearchStrategy[int | None]:
    """Draw W5's interval: vLLM allows 0, None and multiples of the grain."""
    return st.sampled_from([0, 0, None, aligned, 3 * aligned])


@st.composite
def scheduling(draw: st.DrawFn, max_model_len: int) -> dict[str, Any]:
    """Draw the flags of rules S, A4, E and L within L6."""
    chunked = draw(st.booleans())
    seqs = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 8]))
    least = seqs if chunked else max(seqs, max_model_len)
    return {
        "max_num_seqs": seqs,
        "max_num_active_seqs": draw(st.sampled_from([None, None, None, None, (seqs + 1) // 2])),
        "max_num_batched_tokens": least + draw(st.integers(0, 40)),
        "enable_chunked_prefill": chunked,
        "long_prefill_token_threshold": draw(st.just(0) | st.integers(1, min(12, max_model_len))),
        "long_prefill_token_threshold_adaptive": draw(st.booleans()),
        "watermark": draw(st.sampled_from([0.0, 0.0, 0.0625, 0.125, 0.25])),
        "scheduler_reserve_full_isl": draw(st.sampled_from([True, True, False])),
        "policy": draw(st.sampled_from(["fcfs", "fcfs", "priority", "sjf"])),
        "batching": draw(st.sampled_from(["continuous"] * 5 + ["static"])),
        "async_scheduling": draw(st.booleans()),
        "cost_a": draw(st.sampled_from([2.0**-7, 2.0**-10])),
        "cost_b": draw(st.sampled_from([0.0, 2.0**-17, 2.0**-12])),
        "cost_c": draw(st.sampled_from([0.0, 2.0**-26, 2.0**-14])),
    }


@st.composite
def paged_config(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a whole configuration with blocks."""
    block_size = draw(st.sampled_from([1, 2, 3, 4, 8]))
    max_model_len = draw(st.integers(6, 48))
    config = {**DEFAULTS, **draw(scheduling(max_model_len))}
    config["max_model_len"] = max_model_len
    config["block_size"] = block_size
    config["groups"] = draw(groups(block_size))
    config["enable_prefix_caching"] = draw(st.sampled_from([True, True, True, False]))
    config["prefix_cache_retention_interval"] = draw(retention(grain(make_groups(config))))
    config["hash_block_tokens"] = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16]))
    config["num_blocks"] = 1
    enough = 1 + PagedMemory(config).needs_alone(max_model_len)
    config["num_blocks"] = enough + draw(st.sampled_from([0, 1, 2, 3, enough // 3, enough // 2, 2 * enough]))
    # Without the gate a pool that is too small is never done (L5).
    if config["scheduler_reserve_full_isl"] and draw(chance(10)):
        config["num_blocks"] = draw(st.integers(2, enough))
        config["reject_never_fits"] = draw(st.booleans())
    return config


@st.composite
def contiguous_config(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a whole configuration with one piece of memory a request."""
    max_model_len = draw(st.integers(6, 48))
    config = {**DEFAULTS, **draw(scheduling(max_model_len))}
    config["max_model_len"] = max_model_len
    config["memory"] = {
        "type": "contiguous",
        "capacity": draw(st.integers(max_model_len, 4 * max_model_len)),
        "reservation": draw(st.sampled_from(["max", "oracle", "pow2"])),
        "placement": draw(st.sampled_from(["first-fit", "best-fit", "buddy"])),
    }
    config["reject_never_fits"] = draw(st.booleans())
    return config


def tokens_of(index: int, row: Row, hash_block_tokens: int) -> list[int]:
    """Return the prompt and the outputs of a row, token by token."""
    ranges = prompt_ranges(index, row, hash_block_tokens) + output_ranges(index, row)
    return [first + offset for first, count in ranges for offset in range(count)]


@st.composite
def prompt(draw: st.DrawFn, rows: list[Row], longest: int, hash_block_tokens: int) -> Row:
    """Draw a prompt: with ids, private, or going on from an earlier row's prompt and outputs."""
    length = draw(st.integers(1, max(1, longest // 3)) | st.integers(1, longest - 1))
    if draw(chance(60)):
        length = draw(st.sampled_from([0, longest, longest + 1]))
    kind = draw(st.sampled_from(["ids", "ids", "private", "turn"]))
    if kind == "turn" and rows:
        earlier = draw(st.integers(0, len(rows) - 1))
        whole = tokens_of(earlier, rows[earlier], hash_block_tokens)
        cut = draw(st.integers(0, len(whole)))
        return {"prompt_token_ids": (whole[:cut] + draw(st.lists(st.integers(0, 2), max_size=9)))[:longest]}
    if kind == "private":
        return {"prompt_len": length}
    most = -(-length // hash_block_tokens)
    start = draw(st.sampled_from([most, most, most // 2, 0]))
    ids = [*range(start), *draw(st.lists(st.integers(0, most), max_size=most - start))]
    return {"prompt_len": length, "hash_ids": ids}


@st.composite
def rows_for(draw: st.DrawFn, config: dict[str, Any], max_rows: int = 14) -> list[Row]:
    """Draw rows in order of arrival, in bursts, some of them sent when an earlier one has ended."""
    rows: list[Row] = []
    tick = 0
    count = draw(st.integers(1, max_rows) | st.integers(max_rows // 2, max_rows))
    order = draw(st.permutations(range(count)))
    for index in range(count):
        tick += draw(st.sampled_from([0, 0, 0, 1, 7, 40, 300]))
        row = draw(prompt(rows, config["max_model_len"], config["hash_block_tokens"]))
        rows.append(
            {"arrival_s": tick * TICK, "output_len": draw(st.integers(1, 8) | st.integers(4, 40)), **row}
        )
        closed_loop: bool = index > 0 and draw(chance(5))
        if closed_loop:
            think = draw(st.sampled_from([0, 1, 25])) * TICK
            rows[index].update(parent=draw(st.integers(0, index - 1)), think=think)
        # Without the gate, equals that push each other out in turn would never be done.
        distinct = not config["scheduler_reserve_full_isl"]
        rows[index]["priority"] = order[index] if distinct else draw(st.integers(0, 2))
    return rows


@st.composite
def paged_cases(draw: st.DrawFn) -> Case:
    """Draw rows and a configuration with blocks."""
    config = draw(paged_config())
    return draw(rows_for(config)), config


@st.composite
def contiguous_cases(draw: st.DrawFn) -> Case:
    """Draw rows and a configuration with one piece of memory a request."""
    config = draw(contiguous_config())
    return draw(rows_for(config)), config


@st.composite
def sample_cases(draw: st.DrawFn, contiguous: bool) -> Case:
    """Draw rows and a configuration whose requests are two to four samples each, without what those exclude."""
    config = draw(contiguous_config() if contiguous else paged_config())
    samples = config["samples"] = draw(st.integers(2, 4))
    config.update(async_scheduling=False, enable_prefix_caching=False, groups=[{"type": "full"}])
    config["max_num_seqs"] += samples
    config["max_num_batched_tokens"] += samples
    config["max_num_active_seqs"] = None
    if contiguous:
        config["memory"]["capacity"] *= draw(st.integers(1, samples))
        config["reject_never_fits"] = True
    else:
        enough = 1 + samples * -(-config["max_model_len"] // config["block_size"])
        config["num_blocks"] = draw(st.integers(max(2, enough // 3), 2 * enough))
        config["reject_never_fits"] = True
    rows = draw(rows_for(config))
    order = draw(st.permutations(range(len(rows))))
    # Equals that push each other out in turn would never be done.
    return [{**row, "priority": place} for row, place in zip(rows, order, strict=True)], config


def cases() -> st.SearchStrategy[Case]:
    """Draw rows and a configuration of either kind, one sequence a request or several."""
    several = sample_cases(contiguous=False) | sample_cases(contiguous=True)
    return st.one_of(paged_cases(), paged_cases(), contiguous_cases(), several)
