"""What the plots show is what the frame holds, and they look alike whoever draws them."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kvsim.errors import InputError
from kvsim.reports.batch import plot_batch_size
from kvsim.reports.comparison import plot_comparison, save_comparison
from kvsim.reports.frames import CATEGORIES, stretches
from kvsim.reports.latency import plot_latency_cdf
from kvsim.reports.memory import plot_memory_over_time, plot_memory_split
from kvsim.reports.style import save_figure

SHARES = {"contiguous": (0.2, 0.35, 0.15, 0.12, 0.0, 0.18), "paged": (0.86, 0.0, 0.03, 0.0, 0.0, 0.11)}


def summary() -> pd.DataFrame:
    return pd.DataFrame(
        [{"policy": name, **dict(zip(CATEGORIES, s, strict=True))} for name, s in SHARES.items()]
    )


def timeline() -> pd.DataFrame:
    parts = []
    for name, running in (("contiguous", [1.0, 3.0, 2.0]), ("paged", [4.0, 8.0, 0.0])):
        part = pd.DataFrame({"policy": name, "start_s": [0.0, 2.0, 4.0], "end_s": [2.0, 4.0, 10.0]})
        part["running"], part["waiting"] = running, [5.0, 1.0, 0.0]
        parts.append(part.assign(**dict(zip(CATEGORIES, SHARES[name], strict=True))))
    return pd.concat(parts, ignore_index=True)


def requests() -> pd.DataFrame:
    times = [40.0, 10.0, 30.0, 20.0, np.nan]
    part = pd.DataFrame({"ttft_ms": times, "tpot_ms": times, "e2el_ms": times})
    part["status"] = ["completed"] * 4 + ["rejected"]
    slow = part.assign(policy="contiguous", ttft_ms=part["ttft_ms"] * 1000)
    return pd.concat([slow, part.iloc[:4].assign(policy="paged")], ignore_index=True)


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def test_plots_draw_into_the_axes_they_are_given() -> None:
    axes = Figure().subplots(2, 2).ravel()

    assert plot_memory_split(summary(), axes[0]) is axes[0]
    assert plot_batch_size(timeline(), axes[1]) is axes[1]
    assert plot_latency_cdf(requests(), axes[2]) is axes[2]
    assert plot_memory_over_time(timeline().query("policy == 'paged'"), axes[3]) is axes[3]


def test_drawing_leaves_everybody_elses_settings_alone() -> None:
    before = dict(matplotlib.rcParams)

    plot_comparison(summary(), timeline(), requests())

    assert dict(matplotlib.rcParams) == before


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6).filter(any), min_size=1, max_size=5))
def test_bars_stack_the_shares_to_a_hundred_percent(weights: list[list[float]]) -> None:
    shares = np.array(weights) / np.sum(weights, axis=1, keepdims=True)
    frame = pd.DataFrame(shares, columns=list(CATEGORIES)).assign(
        policy=[f"p{i}" for i in range(len(shares))]
    )

    axes = plot_memory_split(frame)

    bars = [[bar for bar in stack if isinstance(bar, Rectangle)] for stack in axes.containers]
    widths = np.array([[bar.get_width() for bar in stack] for stack in bars]).T
    lefts = np.array([[bar.get_x() for bar in stack] for stack in bars]).T
    assert np.allclose(widths, 100 * shares)
    assert np.allclose(lefts, np.cumsum(widths, axis=1) - widths)
    assert axes.get_xlim() == (0, 100)


def test_values_stand_on_wide_segments_only_and_the_waste_at_the_end() -> None:
    written = [text.get_text() for text in plot_memory_split(summary()).texts]

    assert written.count("35.0") == 1
    assert "3.0" not in written
    assert written[-2:] == ["waste 62.0 %", "waste 3.0 %"]


def test_a_run_in_which_nothing_ran_has_no_bar() -> None:
    frame = summary()
    frame.loc[0, list(CATEGORIES)] = np.nan

    written = [text.get_text() for text in plot_memory_split(frame).texts]

    assert written == ["86.0", "11.0", "never ran", "waste 3.0 %"]


def test_memory_over_time_is_one_policy_at_a_time() -> None:
    with pytest.raises(InputError, match=r"one policy at a time, the frame has contiguous, paged"):
        plot_memory_over_time(timeline())


def test_memory_over_time_fills_the_pool_from_the_start_to_the_end() -> None:
    axes = plot_memory_over_time(timeline().query("policy == 'paged'"))

    top = axes.patches[0].get_path().vertices
    assert top[:, 1].max() == pytest.approx(100)
    assert (top[:, 0].min(), top[:, 0].max()) == (0, 10)
    assert legend(axes)[0] == "live"


def long_timeline(rows: int) -> pd.DataFrame:
    ends = np.cumsum(np.random.default_rng(0).exponential(1.0, rows))
    frame = pd.DataFrame({"start_s": np.concatenate([[0.0], ends[:-1]]), "end_s": ends})
    frame["running"], frame["waiting"] = np.arange(rows) % 7.0, 0.0
    frame[list(CATEGORIES)] = np.random.default_rng(1).dirichlet(np.ones(len(CATEGORIES)), rows)
    return frame


@pytest.mark.parametrize("rows", [1, 400, 401, 8000])
def test_merged_rows_have_the_same_integrals_and_edges_where_rows_met(rows: int) -> None:
    frame = long_timeline(rows)
    edges, means = stretches(frame, ["running", *CATEGORIES])

    lengths = (frame["end_s"] - frame["start_s"]).to_numpy()
    assert len(means) <= 400
    assert set(edges[1::2]) <= set(frame["end_s"])
    assert (edges[0], edges[-1]) == (0, frame["end_s"].iloc[-1])
    assert np.allclose(means.T @ np.diff(edges)[::2], frame[["running", *CATEGORIES]].to_numpy().T @ lengths)
    assert np.allclose(means[:, 1:].sum(axis=1), 1)


def test_a_long_row_among_many_short_ones_stays_as_it_is() -> None:
    frame = long_timeline(2000)
    frame.loc[frame.index >= 1000, ["start_s", "end_s"]] += 5000.0
    frame.loc[1000, ["start_s", "running"]] = frame["end_s"][999], 9.0
    edges, means = stretches(frame, ["running"])

    assert frame["end_s"][999] in edges
    assert frame["end_s"][1000] in edges
    assert means.max() == 9


def test_a_part_that_is_never_there_is_not_drawn_but_stays_in_the_legend() -> None:
    axes = plot_memory_over_time(timeline().query("policy == 'paged'"))

    assert len(axes.patches) == 3
    assert legend(axes) == list(CATEGORIES)


def test_many_policies_with_long_names_have_room_and_small_files(tmp_path: Path) -> None:
    names = [f"sliding-window:block_size={size}:window=4096" for size in range(8)]
    many = pd.concat([long_timeline(3000).assign(policy=name) for name in names], ignore_index=True)
    table = pd.DataFrame([{"policy": name, **dict.fromkeys(CATEGORIES, 1 / 6)} for name in names])
    done = pd.concat([requests().assign(policy=name) for name in names], ignore_index=True)

    written = save_comparison(tmp_path, table, many, done, caption="trace t")

    assert max(path.stat().st_size for path in written if path.suffix == ".svg") < 400_000


def test_where_nothing_ran_there_is_nothing_to_draw(tmp_path: Path) -> None:
    assert save_comparison(tmp_path, summary(), timeline().iloc[:0], requests()) == []


def test_batch_size_is_a_step_line_from_zero() -> None:
    axes = plot_batch_size(timeline())

    line = next(line for line in axes.lines if line.get_label() == "contiguous")
    assert np.asarray(line.get_xdata()).tolist() == [0, 2, 2, 4, 4, 10]
    assert np.asarray(line.get_ydata()).tolist() == [1, 1, 3, 3, 2, 2]
    assert axes.get_ylim()[0] == 0


def test_the_batch_legend_lists_the_largest_mean_first() -> None:
    frame = timeline()
    frame.loc[frame["policy"] == "contiguous", "running"] = [1.0, 3.0, 9.0]

    assert legend(plot_batch_size(frame)) == ["contiguous", "paged"]


def test_waiting_requests_are_drawn_on_demand_in_the_same_colour() -> None:
    axes = plot_batch_size(timeline(), waiting=True)

    colours = {str(line.get_label()): to_hex(line.get_color()) for line in axes.lines}
    assert colours["paged waiting"] == colours["paged"]
    assert len(plot_batch_size(timeline()).lines) == 2


@pytest.mark.parametrize(("end", "unit", "last"), [(600, "s", 600), (6000, "min", 100), (36000, "h", 10)])
def test_the_time_axis_has_a_unit_that_suits_it(end: float, unit: str, last: float) -> None:
    axes = plot_batch_size(pd.DataFrame({"start_s": [0.0], "end_s": [end], "running": [1.0]}))

    assert axes.get_xlabel() == f"Simulated time ({unit})"
    assert np.max(axes.lines[0].get_xdata()) == last
    assert legend(axes) == []


def test_the_cdf_is_the_share_at_or_below_each_value() -> None:
    line = plot_latency_cdf(requests().query("policy == 'paged'")).lines[0]

    assert np.asarray(line.get_xdata()).tolist() == [10, 10, 20, 20, 30, 30, 40, 40]
    assert np.asarray(line.get_ydata()).tolist() == [0, 25, 25, 50, 50, 75, 75, 100]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=3000, unique=True))
def test_a_thinned_cdf_rises_from_the_least_to_the_most(values: list[float]) -> None:
    line = plot_latency_cdf(pd.DataFrame({"ttft_ms": values, "status": "completed"})).lines[0]

    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    at_or_below = np.searchsorted(np.sort(values), x[1::2], side="right") / len(values)
    assert (np.diff(x) >= 0).all()
    assert (x[0], x[-1], y[0], y[-1]) == (min(values), max(values), 0, 100)
    assert np.allclose(y[1::2], 100 * at_or_below)
    assert len(x) <= 1600


def test_a_wide_range_of_latencies_is_drawn_on_a_log_axis() -> None:
    assert plot_latency_cdf(requests()).get_xscale() == "log"


def test_a_narrow_range_of_latencies_is_drawn_from_zero() -> None:
    axes = plot_latency_cdf(requests().query("policy == 'paged'"))

    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[0] == 0


def test_the_cdf_legend_says_what_never_completed_and_lists_the_fastest_first() -> None:
    assert legend(plot_latency_cdf(requests())) == ["paged", "contiguous (4 of 5 completed)"]


def test_a_cdf_of_nothing_says_so() -> None:
    axes = plot_latency_cdf(requests().query("status == 'rejected'"))

    assert [text.get_text() for text in axes.texts] == ["no completed requests"]


def test_an_unknown_latency_is_refused() -> None:
    with pytest.raises(InputError, match=r"'ttft' is unknown; known: ttft_ms, tpot_ms, e2el_ms"):
        plot_latency_cdf(requests(), metric="ttft")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InputError, match=r"batch size: no column 'running'; the frame has start_s, end_s"):
        plot_batch_size(pd.DataFrame({"start_s": [0.0], "end_s": [1.0]}))


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(InputError, match="memory split: the frame has no rows"):
        plot_memory_split(summary().iloc[:0])


def test_a_figure_is_saved_twice_with_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        figure = plot_comparison(summary(), timeline(), requests(), caption="trace t | seed 0")
        save_figure(figure, tmp_path / name)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert "<dc:date>" not in (tmp_path / "a.svg").read_text()


def test_a_comparison_leaves_every_plot_as_png_and_svg(tmp_path: Path) -> None:
    written = save_comparison(tmp_path, summary(), timeline(), requests(), caption="trace t")

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    assert {path.stem for path in written} == {
        "comparison",
        "memory_split",
        "memory_over_time",
        "batch_size",
        "latency_cdf",
    }
