"""What an experiment comes to: values, ranges, cells and their names, and what is refused."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim import InputError
from kvsim.cli.trace_options import TraceOptions
from kvsim.config import RunConfig
from kvsim.experiment import Experiment
from kvsim.experiment_file import read_experiment, write_text
from kvsim.experiment_values import settings_known, values_of
from kvsim.summary import Columns
from kvsim.trace_settings import TraceSettings


def names(**parts: Any) -> list[str]:
    return [cell.name for cell in Experiment(**parts).expanded()]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"start": 8, "stop": 32, "step": 8}, (8, 16, 24, 32)),
        ({"start": 0.1, "stop": 0.35, "step": 0.1}, (0.1, 0.2, 0.3)),
        ({"start": 3, "stop": 1, "step": -1}, (3.0, 2.0, 1.0)),
        ({"start": 1, "stop": 64, "factor": 4}, (1.0, 4.0, 16.0, 64.0)),
        ({"start": 8, "stop": 1, "factor": 0.5}, (8.0, 4.0, 2.0, 1.0)),
        ({"start": 0, "stop": 1, "count": 5}, (0.0, 0.25, 0.5, 0.75, 1.0)),
        ({"start": 1, "stop": 100, "count": 3, "geometric": True}, (1.0, 10.0, 100.0)),
        (range(2, 8, 3), (2.0, 5.0)),
    ],
)
def test_a_range_stands_for_its_values(short: object, long: tuple[float, ...]) -> None:
    key = "block_size" if isinstance(long[0], int) else "rate"

    assert values_of(key, short, "here") == long


@given(st.integers(1, 50), st.integers(1, 9), st.integers(0, 30))
def test_a_range_by_steps_is_what_python_counts(start: int, step: int, more: int) -> None:
    found = values_of("head", {"start": start, "stop": start + more, "step": step}, "here")

    assert found == tuple(range(start, start + more + 1, step))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (16, "block_size must be a list, or a range"),
        ([], "block_size has no value"),
        ([16, 32, 16], "block_size has 16 twice"),
        ([16, "many"], "block_size must be a whole number, got 'many'"),
        ({"start": 1, "stop": 9}, "a range is { start, stop, step }"),
        ({"start": 1, "stop": 9, "stepp": 2}, r"a range has no 'stepp' \(did you mean 'step'"),
        ({"start": 1, "stop": 9, "step": -2}, "step -2 leads from 1 away from 9"),
        ({"start": 1, "stop": 9, "factor": 1}, "factor 1 from 1 does not lead to 9"),
        ({"start": 1, "stop": 9, "count": 1}, "count must be a whole number from 2"),
        ({"start": 0, "stop": 9, "count": 3, "geometric": True}, "needs start and stop above 0"),
        ({"start": 1, "stop": 10**9, "step": 1}, "more than 100,000 values"),
    ],
)
def test_what_is_no_range_is_said(given: object, said: str) -> None:
    with pytest.raises(InputError, match=f"here: block_size.*{said}|here: {said}"):
        values_of("block_size", given, "here")


def test_every_combination_is_a_cell_and_the_last_axis_moves_fastest() -> None:
    found = names(sweep={"block-size": [16, 32], "policy": ["paged", "prefix"]}, seeds=2)

    assert found[:3] == [
        "block_size=16,policy=paged,seed=0",
        "block_size=16,policy=paged,seed=1",
        "block_size=16,policy=prefix,seed=0",
    ]
    assert len(found) == 8


def test_zipped_lists_are_walked_side_by_side() -> None:
    pairs = {"model": ["llama-3.1-8b", "llama-3.1-70b"], "tensor_parallel_size": [1, 4]}

    assert names(zipped=[pairs], sweep={"rate": [1, 2]}) == [
        "rate=1,model=llama-3.1-8b,tensor_parallel_size=1",
        "rate=1,model=llama-3.1-70b,tensor_parallel_size=4",
        "rate=2,model=llama-3.1-8b,tensor_parallel_size=1",
        "rate=2,model=llama-3.1-70b,tensor_parallel_size=4",
    ]


def test_cells_given_one_by_one_stand_after_the_combinations() -> None:
    cells: list[dict[str, Any]] = [{"name": "big", "block_size": 64, "gpu": "h100-sxm"}, {"block_size": 128}]
    found = Experiment(sweep={"block_size": [16]}, cells=cells, base={"gpu": "a100-80-sxm"}).expanded()

    assert [cell.name for cell in found] == ["block_size=16", "big", "block_size=128"]
    assert found[0].varied == {"block_size": 16, "gpu": "a100-80-sxm"}
    assert found[1].config == RunConfig(block_size=64, gpu="h100-sxm")


def test_without_anything_varied_there_is_one_cell() -> None:
    assert names(base={"block_size": 32}) == ["base"]
    assert names(cells=[{"block_size": 32}]) == ["block_size=32"]


def test_a_parameter_of_one_policy_leaves_the_others_alone() -> None:
    found = Experiment(
        sweep={"policy": ["paged", "prefix"], "paged.preemption": ["recompute", "swap"], "block_size": [16]}
    ).expanded()

    assert [cell.policy for cell in found] == [
        "paged:preemption=recompute",
        "paged:preemption=swap",
        "prefix",
    ]
    assert [cell.varied["paged.preemption"] for cell in found] == ["recompute", "swap", None]


def test_a_workload_s_figures_are_varied_like_a_policy_s_parameters() -> None:
    [cell] = Experiment(base={"workload": "agent"}, sweep={"agent": {"turns": [8]}}).expanded()

    assert cell.trace == TraceSettings(workload="agent", figures=(("turns", 8),))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"sweep": {"blok_size": [1]}},
            r"experiment: sweep: unknown key 'blok_size' \(did you mean 'block_size'",
        ),
        ({"base": {"gpus": "x"}}, r"experiment: base: unknown key 'gpus' \(did you mean 'gpu'"),
        ({"sweep": {"prefx.block_size": [1]}}, "'prefx', which is neither a policy nor a workload"),
        (
            {"sweep": {"scheduler": ["vllmm"]}},
            r"must be 'vllm' or 'static', got 'vllmm' \(did you mean 'vllm'",
        ),
        ({"sweep": {"async_scheduling": ["yes"]}}, "async_scheduling must be true or false, got 'yes'"),
        ({"zipped": [{"model": ["a", "b"], "gpu": ["c"]}]}, "equally long: model has 2, gpu has 1"),
        ({"sweep": {"seed": [1, 2]}, "seeds": 2}, "seed is varied twice"),
        ({"seeds": [1, 1]}, "seeds has a seed twice"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"seeds": "many"}, "seeds must be a number of seeds"),
        ({"max_cells": 0}, "max_cells must be at least 1"),
        ({"sweep": {"gpu": ["a"], "block-size": [1], "block_size": [2]}}, "block_size is given twice"),
    ],
)
def test_a_slip_is_one_line_with_what_is_allowed(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Experiment(**parts)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"sweep": {"head": range(200), "rate": range(1, 100)}},
            "19,800 cells, and at most 10,000 may be run",
        ),
        ({"cells": [{"rate": 1.0}, {"rate": 1}]}, "cell 'rate=1' is the same as cell 'rate=1'"),
        ({"cells": [{"name": "a", "rate": 1}, {"name": "a", "rate": 2}]}, "two cells are named 'a'"),
    ],
)
def test_cells_that_cannot_be_meant_are_refused(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Experiment(**parts).expanded()


def test_a_parameter_that_no_cell_has_is_refused() -> None:
    parts: dict[str, Any] = {"sweep": {"policy": ["prefix"], "paged.preemption": ["swap"]}}

    with pytest.raises(InputError, match=r"paged\.preemption is varied, but no cell has 'paged'"):
        Experiment(**parts).expanded()


def test_the_trace_settings_are_the_flags_that_read_a_trace() -> None:
    flags = {field.name: hint for field in dataclasses.fields(TraceOptions) for hint in [field.type]}
    ours = {field.name: field.type for field in dataclasses.fields(TraceSettings)}

    assert set(flags) <= set(ours)
    assert set(ours) - set(flags) == {"trace", "workload", "requests", "figures"}


def test_no_setting_has_the_name_of_a_metric() -> None:
    metrics = {field.name for field in dataclasses.fields(Columns)} | {"live", "free", "waste", "duration"}

    assert not metrics & (set(settings_known()) - {"preemptions", "arrival"})
    assert all(typing.get_type_hints(RunConfig)[name] for name in vars(RunConfig()))


FILE = """
name = "sizes"
description = "which block size"
seeds = [3, 5]
max-cells = 50

[base]
trace = "rows.jsonl"
max-model-len = "none"
measure-capacity = false

[sweep]
policy = ["paged", "./mine.py:Mine"]
block-size = { start = 8, stop = 32, factor = 2 }
paged.preemption = ["recompute", "swap"]
"./mine.py:Mine".depth = { start = 1, stop = 2, step = 1 }

[[zip]]
gpu = ["a100-80-sxm", "h100-sxm"]
scale-rate = [1, 1.5]

[[cell]]
name = "one \\"more\\""
goodput = "ttft:200"
"""


def test_a_file_and_its_normalised_copy_are_the_same_experiment(tmp_path: Path) -> None:
    first = read_experiment(written(tmp_path, FILE))
    (tmp_path / "out").mkdir()
    copy = tmp_path / "out" / "experiment.toml"
    copy.write_text(write_text(first, copy.parent))

    again = read_experiment(copy)

    assert again.expanded() == first.expanded()
    assert again.folder.resolve() == first.folder.resolve() == tmp_path.resolve()
    assert (again.name, again.description, again.seeds, again.max_cells) == (
        "sizes",
        first.description,
        (3, 5),
        50,
    )
    assert len(first.expanded()) == 3 * (2 + 2) * 2 * 2 + 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("block_size = 16", r"unknown key 'block_size' \(a setting belongs in \[base\]\)"),
        ("sweeep = 1", r"unknown key 'sweeep' \(did you mean 'sweep'"),
        ("[[sweep]]\nrate = [1]", r"sweep must be a table"),
        ("[zip]\nrate = [1]", r"zip must be tables, each headed \[\[zip\]\]"),
        ("name = 3", "name must be a text, got 3"),
        ("name = ", "not TOML"),
        ("[sweep]\nrate = 3", "experiment.toml: sweep: rate must be a list"),
    ],
)
def test_a_file_that_is_none_is_said_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"experiment\.toml.*{said}|{said}"):
        read_experiment(written(tmp_path, text))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: No such file"):
        read_experiment(tmp_path / "none.toml")
