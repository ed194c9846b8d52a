"""Every command of the recipes runs, and prints every line that the recipes show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvsim.cli import main

RECIPES = Path(__file__).resolve().parents[1] / "reports" / "recipes.md"
MORE = "…"
"""Stands for lines left out."""


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield language and lines of each fenced block."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found[1], found[2].splitlines()


def squeezed(line: str) -> str:
    """Return a line without what tables are padded with."""
    return " ".join(line.split())


RECIPE_TEXT = RECIPES.read_text(encoding="utf-8")
PARTS = re.split(r"^## ", RECIPE_TEXT, flags=re.MULTILINE)
PREPARATION = [line for kind, lines in blocks(PARTS[0]) if kind == "sh" for line in lines]
BY_QUESTION = {part.splitlines()[0]: part for part in PARTS[1:] if "```sh" in part}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in PREPARATION:
            main(shlex.split(line)[1:])
    return folder


def test_the_recipes_answer_the_questions_that_people_ask() -> None:
    asked = " ".join(BY_QUESTION).lower()

    for word in (
        "at once",
        "formula",
        "preemption",
        "prefix hits",
        "block size",
        "fp8",
        "window",
        "memory fraction",
    ):
        assert word in asked


@pytest.mark.parametrize("question", BY_QUESTION)
def test_a_recipe_prints_what_it_shows(
    question: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "120")
    (commands,) = (lines for kind, lines in blocks(BY_QUESTION[question]) if kind == "sh")
    (shown,) = (lines for kind, lines in blocks(BY_QUESTION[question]) if kind == "text")
    assert 1 <= len(commands) <= 4

    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "kvsim"
        main(arguments)

    printed = {squeezed(line) for line in capsys.readouterr().out.splitlines()}
    assert not [line for line in shown if line != MORE and squeezed(line) not in printed]


def test_the_curve_has_the_columns_that_are_described(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    monkeypatch.chdir(place)
    main(shlex.split("search rate conv.parquet --seeds 2 --precision 0.2 --slo ttft_p99=2s -j 1 -o walked"))
    main(
        shlex.split(
            "search block-size alpaca --requests 20 --rate 9 --seeds 1 --objective e2e_mean -j 1 -o best"
        )
    )
    described = set(re.findall(r"`(\w+)`", RECIPE_TEXT[RECIPE_TEXT.index("## The curve") :]))
    summary = set(re.findall(r"`(\w+)`", (RECIPES.parent / "README.md").read_text(encoding="utf-8")))

    for folder in ("walked", "best"):
        found = set(pd.read_parquet(place / folder / "curve.parquet").columns)
        assert {
            name for name in found - described - summary if not re.match(r"(p\d\d|mean)_\w+_ms", name)
        } == set()
