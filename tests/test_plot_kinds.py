"""Memory maps, sweeps, queues and gaps as plots, and `kvsim plot`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from reported import compared, swept

from kvsim.cli import COMMANDS, main
from kvsim.errors import InputError
from kvsim.reports.batch import plot_waiting
from kvsim.reports.kinds import KINDS
from kvsim.reports.latency import plot_itl_cdf
from kvsim.reports.map_data import map_view
from kvsim.reports.memory_map import USES, picture, plot_memory_map, plot_memory_maps
from kvsim.reports.metrics import is_metric, scaled, words_for
from kvsim.reports.style import POLICY_LOOKS
from kvsim.reports.sweep import plot_hit_rate, plot_sweep, plot_throughput_latency
from kvsim.reports.sweep_folder import read_sweep


def memory_map() -> pd.DataFrame:
    rows = [
        (0.0, 2.0, 0, 10, "live", 3), (2.0, 4.0, 0, 10, "free", None),
        (0.0, 4.0, 10, 10, "internal", 3), (0.0, 1.0, 20, 12, "free", None), (1.0, 4.0, 20, 12, "shared", None),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["start_s", "end_s", "slot", "slots", "use", "request"])
    return frame.astype({"request": "Int64"})


def curves() -> pd.DataFrame:
    rows = [
        {
            "policy": policy, "rate": rate, "seed": seed, "block_size": 4 * rate, "gpu": "ab"[seed],
            "request_throughput": min(rate, best), "p99_ttft_ms": 50.0 * rate + seed, "waste": 0.01 * rate,
            "prefix_cache_hit_rate": 1 - 1 / rate, "pool_tokens": 1000 * rate,
        }
        for policy, best in (("paged", 5), ("prefix", 9)) for rate in (1, 2, 4, 8, 16) for seed in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def labels(axes: Axes) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_a_map_is_drawn_cell_by_cell() -> None:
    found = picture(memory_map())

    assert found.times.tolist() == [0, 1, 2, 4]
    assert found.slots.tolist() == [0, 10, 20, 32]
    assert [[USES[place] for place in row] for row in found.use.tolist()] == [
        ["live", "live", "free"],
        ["internal"] * 3,
        ["free", "shared", "shared"],
    ]
    assert found.request.tolist() == [[3, 3, -1], [3, 3, 3], [-1, -1, -1]]


def test_plots_draw_into_the_axes_they_are_given() -> None:
    axes = Figure().subplots(2, 3).ravel()
    timeline = pd.DataFrame({"start_s": [0.0], "end_s": [1.0], "waiting": [2.0]})

    assert plot_memory_map(memory_map(), axes[0]) is axes[0]
    assert plot_sweep(curves(), axes[1], x="block_size", y="waste") is axes[1]
    assert plot_throughput_latency(curves(), axes[2], rate="rate") is axes[2]
    assert plot_hit_rate(curves(), axes[3]) is axes[3]
    assert plot_waiting(timeline, axes[4]) is axes[4]
    assert plot_itl_cdf(pd.DataFrame({"share": [0.5, 1.0], "itl_ms": [1.0, 2.0]}), axes[5]) is axes[5]


def test_a_map_is_of_one_policy_and_maps_have_a_panel_each() -> None:
    both = pd.concat([memory_map().assign(policy=name) for name in ("paged", "prefix")])

    with pytest.raises(InputError, match="one policy at a time, the frame has paged, prefix"):
        plot_memory_map(both)
    assert [axes.get_title(loc="left") for axes in plot_memory_maps(both).axes] == ["paged", "prefix"]


def test_a_use_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match="use 'lost' is unknown"):
        plot_memory_map(memory_map().replace("live", "lost"))


def test_axes_carry_units() -> None:
    axes = plot_throughput_latency(curves())

    assert axes.get_xlabel() == "Throughput (requests/s)"
    assert axes.get_ylabel() == "Time to first token, p99 (ms)"
    assert plot_hit_rate(curves()).get_xlabel() == "KV pool (tokens)"
    assert words_for("median_tpot_ms") == "Time per output token, median (ms)"
    assert words_for("my_knob") == "my_knob"


def test_a_policy_has_its_colour_and_a_marker_of_its_own() -> None:
    lines = plot_sweep(curves(), x="rate", y="waste").get_lines()

    assert [to_hex(line.get_color()).upper() for line in lines] == [
        POLICY_LOOKS[name].colour for name in ("paged", "prefix")
    ]
    assert len({line.get_marker() for line in lines}) == 2


def test_seeds_become_their_mean_with_a_band() -> None:
    axes = plot_sweep(curves(), x="rate", y="p99_ttft_ms")

    assert axes.get_lines()[0].get_ydata()[0] == 50.5
    assert len(axes.collections) == 2


def test_lines_are_told_apart_by_what_one_asks_for() -> None:
    axes = plot_sweep(curves(), x="rate", y="p99_ttft_ms", by=["policy", "gpu"])

    assert labels(axes) == ["paged, a", "paged, b", "prefix, a", "prefix, b"]
    assert not axes.collections


def test_words_on_an_axis_stand_in_their_order() -> None:
    axes = plot_sweep(curves(), x="gpu", y="waste")

    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]


def test_shares_are_drawn_in_percent() -> None:
    assert scaled(pd.Series([0.25]), "waste").tolist() == [25.0]
    assert scaled(pd.Series([0.25]), "running_mean").tolist() == [0.25]


def test_cells_without_a_number_are_left_out_and_none_at_all_is_said() -> None:
    frame = curves()
    frame.loc[frame["policy"] == "paged", "waste"] = np.nan

    assert labels(plot_sweep(frame, x="rate", y="waste")) == ["prefix"]
    with pytest.raises(InputError, match="no row has both 'rate' and 'waste'"):
        plot_sweep(frame.assign(waste=np.nan), x="rate", y="waste")


def test_every_key_of_a_summary_is_a_metric() -> None:
    summary = compared().results["paged"].summary

    assert [key for key in summary if not is_metric(key)] == []
    assert not is_metric("block_size")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compared().save(tmp_path_factory.mktemp("plots") / "compare")


@pytest.mark.parametrize("kind", [*KINDS])
def test_every_kind_is_drawn_or_says_what_it_needs(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = kind in ("throughput-latency", "hit-rate", "sweep", "predicted")

    if curve:
        with pytest.raises(SystemExit):
            main(["plot", kind, str(folder), "-o", str(tmp_path / "new" / kind)])
        assert f"plot {kind} needs " in capsys.readouterr().err
    else:
        main(["plot", kind, str(folder), "-o", str(tmp_path / "new" / kind)])
        assert {path.suffix for path in (tmp_path / "new").iterdir()} == {".png", ".svg"}


@pytest.mark.parametrize("kind", ["throughput-latency", "sweep"])
def test_curves_are_drawn_from_a_sweep(kind: str, tmp_path: Path) -> None:
    folder = swept(tmp_path / "rates", paged_2="failed")

    main(["plot", kind, str(folder), "-o", str(tmp_path / kind)])

    assert (tmp_path / f"{kind}.svg").stat().st_size > 1000


def test_predicted_is_drawn_from_executed_steps(tmp_path: Path) -> None:
    steps = pd.DataFrame(
        {"layout": "paged 16", "kind": "decode", "predicted_s": [0.01, 0.02], "measured_s": [0.011, 0.02]}
    )
    steps.to_csv(tmp_path / "steps.csv", index=False)

    main(["plot", "predicted", str(tmp_path), "-o", str(tmp_path / "predicted.png")])

    assert (tmp_path / "predicted.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["batsh", "{folder}"], "unknown plot 'batsh' (did you mean 'batch'"),
        (["batch"], "plot batch needs a folder"),
        (["sweep", "{sweep}", "--x", "rat"], "no column 'rat' to draw over (did you mean 'rate'"),
        (["sweep", "{sweep}", "--y", "wast"], "no metric 'wast' (did you mean 'waste'"),
    ],
)
def test_plot_refuses_in_one_line(
    arguments: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = swept(tmp_path / "rates")

    with pytest.raises(SystemExit) as caught:
        main(["plot", *(part.format(folder=folder, sweep=sweep) for part in arguments)])

    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_plot_list_and_help_name_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plot", "list"])

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(KINDS)
    assert all(kind in COMMANDS["plot"] for kind in KINDS)


def test_parameters_of_a_sweep_are_the_columns_before_its_metrics(tmp_path: Path) -> None:
    assert read_sweep(swept(tmp_path / "rates")).parameters == ("policy", "rate")


def test_maps_of_a_page_share_its_room() -> None:
    rng = np.random.default_rng(0)
    across, up = 256, 200
    noise = pd.DataFrame(
        {"start_s": np.tile(np.arange(across), up) * 1.0, "slot": np.repeat(np.arange(up), across)}
    )
    noise = noise.assign(end_s=noise["start_s"] + 1, slots=1, use=rng.choice(USES[:4], across * up))
    noise["request"] = pd.array(rng.integers(0, 10_000, across * up), dtype="Int64")
    result = compared().results["paged"]
    result.more["memory_map"] = dict(noise.items())

    sizes = []
    for maps in (1, 8):
        view = map_view("paged", result, maps)
        assert view is not None
        sizes.append(maps * (len(view.image) + len(view.data["runs"])))

    # Noise is the worst there can be; a page may have 3 MB.
    assert max(sizes) < 2_000_000
