"""Plots of a simulated run over a measured one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from measured_runs import run, write_folder, write_trace

from kvsim.errors import InputError
from kvsim.measured_compare import Differences, compare_measured
from kvsim.measured_folder import read_folder
from kvsim.reports.measured import LOOKS, measured_figure, plot_measured_latency, plot_measured_over_time


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> Differences:
    folder = tmp_path_factory.mktemp("plots")
    result = run(write_trace(folder / "t.jsonl"))
    return compare_measured(read_folder(write_folder(folder / "measured", result, slower=1.5)), result)


def labels(axes: Axes) -> list[str]:
    return [str(line.get_label()) for line in axes.get_lines()]


def test_a_distribution_ends_at_all_requests_on_both_sides(differences: Differences) -> None:
    axes = plot_measured_latency(differences.requests, metric="e2el_ms")

    assert labels(axes) == list(LOOKS)
    assert [line.get_ydata()[-1] for line in axes.get_lines()] == [100, 100]  # type: ignore[index]
    assert axes.get_xlabel() == "End-to-end latency (ms)"


def test_tpot_leaves_out_requests_of_a_single_token() -> None:
    frame = pd.DataFrame(
        {"run": ["measured", "simulated"] * 2, "tpot_ms": [1.0, 2.0, float("nan"), float("nan")]}
    )

    lines = plot_measured_latency(frame, metric="tpot_ms").get_lines()

    assert [len(line.get_xdata()) for line in lines] == [2, 2]  # type: ignore[arg-type]


def test_a_count_is_drawn_over_time(differences: Differences) -> None:
    axes = plot_measured_over_time(differences.over_time, count="running")

    assert labels(axes) == list(LOOKS)
    assert axes.get_ylabel() == "Running requests"


def test_the_sheet_has_a_legend_once_and_only_what_there_is(differences: Differences) -> None:
    sheet = measured_figure(differences.requests, differences.over_time, caption="trace x")

    shown = [axes for axes in sheet.get_axes() if axes.get_visible()]
    assert len(shown) == 6
    assert sum(axes.get_legend() is not None for axes in shown) == 1


def test_unknown_metrics_and_missing_columns_are_named(differences: Differences, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metric 'x' is unknown"):
        plot_measured_latency(differences.requests, metric="x")
    with pytest.raises(InputError, match="count 'x' is unknown"):
        plot_measured_over_time(differences.over_time, count="x")
    with pytest.raises(InputError, match="no column 'kv_cache_usage_measured'"):
        plot_measured_over_time(differences.over_time, count="kv_cache_usage")
