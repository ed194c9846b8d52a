"""Generated workloads: their published moments, their sharing, their determinism."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.request import IntColumn
from kvsim.traces.generate import generate
from kvsim.traces.trace import Trace
from kvsim.traces.workloads import workload, workloads

ALONE = [name for name, w in workloads().items() if w.turns is None]
SESSIONS = [name for name, w in workloads().items() if w.turns is not None]
ROWS = 200_000


def standard_error(column: IntColumn) -> float:
    return float(column.std()) / math.sqrt(len(column))


def moments(trace: Trace) -> dict[str, float]:
    prompt, output = trace.prompt_tokens, trace.output_tokens
    return {
        "prompt_mean": prompt.mean(),
        "prompt_median": np.median(prompt),
        "prompt_std": prompt.std(),
        "prompt_weighted": (prompt * output).mean() / output.mean(),
        "output_mean": output.mean(),
        "output_median": np.median(output),
        "output_std": output.std(),
        "output_weighted": (output * output).mean() / output.mean(),
    }


@pytest.mark.parametrize("name", ALONE)
def test_single_requests_have_the_documented_moments(name: str) -> None:
    trace = generate(name, ROWS, rate=5, seed=11)

    found = moments(trace)
    for moment, value in workloads()[name].moments.items():
        assert found[moment] == pytest.approx(value, rel=0.02), moment
    for column in ("prompt", "output"):
        error = standard_error(getattr(trace, f"{column}_tokens"))
        assert abs(found[f"{column}_mean"] - workloads()[name].moments[f"{column}_mean"]) < 4 * error


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions_have_the_documented_moments(name: str) -> None:
    trace = generate(name, 60_000, rate=1, seed=5, block_tokens=512)

    assert trace.session is not None
    assert trace.think is not None
    expected = workloads()[name].moments
    assert trace.prompt_tokens.mean() == pytest.approx(expected["prompt_mean"], rel=0.05)
    assert trace.output_tokens.mean() == pytest.approx(expected["output_mean"], rel=0.02)
    assert len(trace) / (trace.session.max() + 1) == pytest.approx(expected["turns_mean"], rel=0.04)
    assert trace.think[trace.think > 0].mean() == pytest.approx(expected["think_mean"], rel=0.02)


@pytest.mark.parametrize(
    ("name", "prompt", "output"),
    [
        ("sharegpt", 161.31, 337.99),  # Kwon et al., SOSP 2023, Fig. 11
        ("alpaca", 19.31, 58.45),
        ("azure-conv", 1154.70, 211.13),  # Azure 2023 traces
        ("azure-code", 2047.85, 27.88),
    ],
)
def test_means_are_the_published_ones(name: str, prompt: float, output: float) -> None:
    trace = generate(name, ROWS, rate=1, seed=2)

    assert abs(trace.prompt_tokens.mean() - prompt) < 4 * standard_error(trace.prompt_tokens)
    assert abs(trace.output_tokens.mean() - output) < 4 * standard_error(trace.output_tokens)


def test_sharegpt_has_the_length_biased_moments_of_the_vllm_paper() -> None:
    trace = generate("sharegpt", ROWS, rate=2, seed=7)

    found = moments(trace)
    assert found["output_weighted"] == pytest.approx(598, rel=0.015)
    assert found["output_std"] == pytest.approx(296, rel=0.015)
    assert found["prompt_weighted"] == pytest.approx(159, rel=0.02)
    assert trace.prompt_tokens.max() < 1024
    assert (trace.prompt_tokens + trace.output_tokens).max() <= 2048


@pytest.mark.parametrize("name", workloads())
@given(requests=st.integers(1, 60), seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_any_trace_is_valid_sorted_and_as_long_as_asked(name: str, requests: int, seed: int) -> None:
    trace = generate(name, requests, rate=3, seed=seed)

    assert len(trace) == requests
    assert trace.checked().sha256() == trace.sha256()
    assert generate(name, requests, rate=3, seed=seed).sha256() == trace.sha256()


@pytest.mark.parametrize("name", workloads())
def test_another_seed_gives_another_trace(name: str) -> None:
    assert generate(name, 50, rate=1, seed=0).sha256() != generate(name, 50, rate=1, seed=1).sha256()


@pytest.mark.parametrize("name", SESSIONS)
def test_a_turn_repeats_the_earlier_prompt_and_answer(name: str) -> None:
    trace = generate(name, 300, rate=1, seed=4)

    assert trace.parent is not None
    for row, parent in enumerate(trace.parent.tolist()):
        if parent >= 0:
            said = trace.prompt_tokens[parent] + trace.output_tokens[parent]
            assert trace.prompt_tokens[row] > said
            before = trace.ids(parent)
            assert np.array_equal(trace.ids(row)[: len(before)], before)
        assert len(trace.ids(row)) == -(-trace.prompt_tokens[row] // trace.block_tokens)


@pytest.mark.parametrize("name", [*SESSIONS, "shared-prefix"])
def test_an_id_always_has_the_same_predecessor(name: str) -> None:
    trace = generate(name, 300, rate=1, seed=4)

    predecessors: dict[int, set[int]] = {}
    for row in range(len(trace)):
        ids = trace.ids(row).tolist()
        for before, after in zip([-1, *ids], ids, strict=False):
            predecessors.setdefault(after, set()).add(before)
    assert all(len(found) == 1 for found in predecessors.values())


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions_share_nothing_but_the_system_prompt(name: str) -> None:
    trace = generate(name, 400, rate=1, seed=9)

    assert trace.session is not None
    shared = workloads()[name].system_prompts * workloads()[name].shared_blocks
    owner: dict[int, int] = {}
    for row, session in enumerate(trace.session.tolist()):
        for block in trace.ids(row).tolist():
            assert block < shared or owner.setdefault(block, session) == session


def test_system_prompts_are_popular_by_zipfs_law() -> None:
    trace = generate("shared-prefix", 50_000, rate=1, seed=1)

    assert trace.block_ids is not None
    counts = np.bincount(trace.block_ids[::64] // 64, minlength=32)
    harmonic = sum(1 / k for k in range(1, 33))
    assert counts[0] / len(trace) == pytest.approx(1 / harmonic, rel=0.05)
    assert counts[0] / counts[3] == pytest.approx(4, rel=0.1)


def test_only_the_first_turn_of_a_session_arrives_by_itself() -> None:
    trace = generate("chat", 2000, rate=2, seed=3)

    assert trace.parent is not None
    assert trace.think is not None
    starts = trace.arrival[trace.parent < 0]
    assert np.all(trace.think[trace.parent < 0] == 0)
    assert len(starts) / starts[-1] == pytest.approx(2, rel=0.15)


def test_overrides_change_means_and_sharing() -> None:
    longer = generate("alpaca", 20_000, rate=1, seed=1, prompt=500)
    alone = generate("shared-prefix", 20_000, rate=1, seed=1, system_prompts=0)

    assert longer.prompt_tokens.mean() == pytest.approx(500, rel=0.05)
    assert alone.prompt_tokens.mean() == pytest.approx(113.6, rel=0.05)
    assert alone.block_ids is None


def test_an_overridden_workload_claims_no_moments() -> None:
    assert workload("alpaca", prompt=500).moments == {}
    assert workload("alpaca").moments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sharegtp", 10, 1.0), "unknown workload 'sharegtp' .did you mean 'sharegpt'"),
        (("chat", 0, 1.0), "requests must be at least 1, got 0"),
        (("chat", 10, -1.0), "rate must be a positive number"),
        (("chat", 10, 1.0, 0, "steady"), "arrival process must be"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"turn": 3.0}, "no figure 'turn' .did you mean 'turns'"),
        ({"turns": float("nan")}, "turns must be a number from 0 up"),
        ({"first": 3.0}, "chat has no first to change"),
        ({"block_tokens": 0.0}, "block_tokens must be a whole number"),
        ({"system_tokens": 1.5}, "system_tokens must be a whole number"),
        ({"max_tokens": 5.0}, "hardly ever fit max_tokens 5"),
    ],
)
def test_bad_overrides_are_named(overrides: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate("chat", 10, 1.0, **overrides)  # type: ignore[arg-type]
