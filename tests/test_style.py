"""Colours, captions and files of the figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from kvsim.errors import InputError
from kvsim.registry import policies
from kvsim.reports.batch import plot_batch_size
from kvsim.reports.caption import fold_caption, provenance_caption
from kvsim.reports.frames import CATEGORIES, fold_name
from kvsim.reports.style import MEMORY_FILLS, POLICY_LOOKS, figure_of, policy_looks, save_figure

FRAME = pd.DataFrame({"start_s": [0.0], "end_s": [1.0], "running": [1.0]})


def figure(caption: str = "") -> Figure:
    return figure_of(plot_batch_size(FRAME, caption=caption))


def luminance(colour: str) -> float:
    return float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)))


def test_drawing_never_imports_pyplot(tmp_path: Path) -> None:
    script = (
        "import sys, pandas as pd\nfrom kvsim.reports import plot_batch_size, save_figure\n"
        "frame = pd.DataFrame({'start_s': [0.0], 'end_s': [1.0], 'running': [1.0]})\n"
        f"save_figure(plot_batch_size(frame).figure, {str(tmp_path / 'a')!r})\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-W", "error", "-c", script]).returncode == 0


def test_neighbours_in_the_stack_differ_in_grey() -> None:
    tones = [luminance(MEMORY_FILLS[category].colour) for category in CATEGORIES]
    hatches = [MEMORY_FILLS[category].hatch for category in CATEGORIES]

    assert all(
        abs(tones[i] - tones[i + 1]) > 0.12 or hatches[i] != hatches[i + 1] for i in range(len(tones) - 1)
    )


def test_a_policy_keeps_its_colour_in_any_company() -> None:
    alone = policy_looks(["mine"])["mine"]

    assert policy_looks(["paged", "mine"])["mine"].colour == alone.colour
    assert policy_looks(["mine", "paged"])["paged"] == POLICY_LOOKS["paged"]


@given(st.sets(st.text(min_size=1), max_size=8))
def test_no_two_policies_of_a_figure_share_a_colour(names: set[str]) -> None:
    looks = policy_looks([*names, *POLICY_LOOKS])

    assert len({look.colour for look in looks.values()}) == len({*names, *POLICY_LOOKS})


def test_every_fixed_colour_belongs_to_a_policy_that_exists() -> None:
    assert set(POLICY_LOOKS) <= set(policies())


def test_an_extension_in_the_name_is_not_doubled_and_other_dots_stay(tmp_path: Path) -> None:
    written = save_figure(figure(), tmp_path / "run.1.svg")

    assert [path.name for path in written] == ["run.1.png", "run.1.svg"]


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match=r"figure '.*file/plot' cannot be written: Not a directory"):
        save_figure(figure(), tmp_path / "file" / "plot")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_caption_stands_under_the_figure() -> None:
    assert figure("trace t | model m").get_supxlabel() == "trace t | model m"


def test_a_caption_names_what_is_known_in_one_line() -> None:
    line = provenance_caption(trace="a.csv", model="m", gpu="g", cost="linear:1,0,0\n(assumed)", seed=0)

    assert line == "trace a.csv | model m | GPU g | cost linear:1,0,0 (assumed) | seed 0"


@given(st.lists(st.text("ab ", min_size=1, max_size=30).map(str.strip).filter(bool), min_size=1))
def test_a_folded_caption_loses_no_word(parts: list[str]) -> None:
    folded = fold_caption(" | ".join(parts), 40)

    assert folded.replace("|", " ").split() == " ".join(parts).split()
    assert max(map(len, folded.split("\n"))) <= 40


@given(st.text())
def test_a_folded_name_loses_no_character(name: str) -> None:
    assert fold_name(name, 10).replace("\n", "") == name.replace("\n", "")
