"""The HTML report: what is in it, what it says is missing, and that it takes nothing from input as HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from reported import EVIL, cell_file, compared, swept

from kvsim.cli import main
from kvsim.errors import InputError
from kvsim.reports.facts import Origin, basis_of, cost_basis, facts, sweep_facts
from kvsim.reports.headline import sentences, sweep_sentences
from kvsim.reports.html import html_report
from kvsim.reports.sources import collect
from kvsim.reports.sweep_folder import read_sweep
from kvsim.result import load_result


class Page(HTMLParser):
    """Tags by name, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compared().save(tmp_path_factory.mktemp("report") / "compare")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return html_report(collect([folder]))


def test_the_page_asks_for_nothing_outside(page: str) -> None:
    found = Page(page)

    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert not re.findall(r"url\((?!#)[^)]*\)", page)
    assert found.count("link") == 0
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)


def test_the_page_has_answer_table_maps_plots_and_provenance(page: str) -> None:
    found = Page(page)

    assert found.count("h1") == 1
    assert found.count("svg") == 9
    assert sum(tag == "div" and data.get("class") == "picture" for tag, data in found.tags) == 2
    for words in (
        "Comparison",
        "Memory map",
        "Latency",
        "Trace SHA-256",
        "mistral-7b-v0.1",
        "Step cost, error",
    ):
        assert words in found.text


def test_every_id_of_a_page_is_there_once(page: str) -> None:
    ids = [data["id"] for _, data in Page(page).tags if "id" in data]

    assert len(ids) == len(set(ids))


def test_every_reference_has_its_target(page: str) -> None:
    ids = {data["id"] for _, data in Page(page).tags if "id" in data}

    wanted = set(re.findall(r'(?:url\(#|xlink:href="#)([\w-]+)', page))

    assert wanted
    assert wanted <= ids


def test_the_same_runs_give_the_same_bytes(folder: Path, page: str) -> None:
    assert html_report(collect([folder])) == page


def test_numbers_in_the_table_are_those_of_the_text_table(folder: Path, page: str) -> None:
    summary = load_result(folder / "paged").summary

    assert f">{summary['completed']}<" in page
    assert f"{100 * summary['waste']:,.1f}" in page


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    comparison = compared(name=EVIL)
    for result in comparison.results.values():
        result.config["ended_early"] = EVIL
        result.config["settings"]["model"] = EVIL
    results = {EVIL: comparison.results["paged"], "prefix": comparison.results["prefix"]}
    folder = type(comparison)(results).save(tmp_path / "compare")

    text = html_report(collect([folder, swept(tmp_path / "sweep", paged_2="failed")]))

    assert EVIL not in text
    assert EVIL in Page(text).text
    # The page's own script and its data, and no other.
    assert Page(text).count("script") == 2


def test_maths_in_names_is_text_too(tmp_path: Path) -> None:
    results = compared().results
    folder = type(compared())({"a$\\frac$b": results["paged"]}).save(tmp_path / "c")

    text = Page(html_report(collect([folder]))).text

    assert "a$\\frac$b" in text


def test_a_sweep_says_which_cells_are_missing_and_why(tmp_path: Path) -> None:
    folder = swept(tmp_path / "rates", paged_2="failed", prefix_8="missing")

    missing = read_sweep(folder).missing

    assert missing[0].startswith("rates: 2 of 8 cells are missing (1 failed, 1 not run yet)")
    assert missing[1] == f"rates: policy = paged, rate = 2, seed = 0: failed: {EVIL}"
    assert missing[2] == "rates: policy = prefix, rate = 8, seed = 0: not run yet"


def test_a_sweep_killed_before_its_table_is_reported_as_that(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "experiment.toml").write_text("[sweep]\nrate = [1]\n")

    text = Page(html_report(collect([folder]))).text

    assert "no cell is known to have finished" in text
    assert "Nothing has finished yet" in text


def test_a_table_that_lags_behind_the_cells_is_said(tmp_path: Path) -> None:
    folder = swept(tmp_path / "rates", paged_2="missing")
    for key in ("paged2", "of other settings"):
        cell_file(folder, key, {"settings": {}})

    assert "1 cells have finished since the table was written" in read_sweep(folder).missing[-1]


def test_a_sweep_names_what_its_cells_rest_on(tmp_path: Path, folder: Path) -> None:
    sweep_folder = swept(tmp_path / "rates")
    cell_file(sweep_folder, "paged1", dict(load_result(folder / "paged").config))

    sweep = read_sweep(sweep_folder)

    assert sweep.parameters == ("policy", "rate")
    assert {fact.name: fact.values for fact in sweep_facts(sweep.origins)}["Model"] == ("mistral-7b-v0.1",)
    assert "roofline:a100-40-sxm" in Page(html_report(collect([sweep_folder]))).text


def test_a_sweep_is_drawn_over_what_was_swept(tmp_path: Path) -> None:
    text = Page(html_report(collect([swept(tmp_path / "rates", prefix_8="missing")]))).text

    assert "prefix with rate = 4 gave most throughput, 400 output tokens/s." not in text
    assert "paged with rate = 8 gave most throughput, 500 output tokens/s." in text
    assert "Latency against throughput, as rate goes up" in text


def test_a_run_that_a_comparison_lost_is_said_and_the_others_are_shown(tmp_path: Path) -> None:
    folder = compared().save(tmp_path / "compare")
    (folder / "paged" / "run.json").unlink()

    sources = collect([folder])

    assert [run.name for run in sources.runs] == ["prefix"]
    assert "paged is missing" in sources.missing[0]


def test_runs_of_one_name_are_told_apart_by_their_folders(folder: Path, tmp_path: Path) -> None:
    other = compared().save(tmp_path / "again")

    names = [run.name for run in collect([folder, other]).runs]

    assert names == ["paged (compare)", "prefix (compare)", "paged (again)", "prefix (again)"]


def test_a_folder_of_nothing_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run\.json, compare\.csv, cells\.csv or cells\.parquet"):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("label", "basis"),
    [
        ("roofline:x (assumed: datasheet rates)", "assumed"),
        (
            "profile:x (decode steps off by 1.4% on held-out points; not measured by us; calibrated)",
            "calibrated",
        ),
        ("linear:1,0,0 (assumed)", "assumed"),
    ],
)
def test_a_cost_label_tells_its_basis(label: str, basis: str) -> None:
    assert cost_basis(label) == basis


def test_the_error_of_a_profile_is_named(folder: Path) -> None:
    config = load_result(folder / "paged").config
    config["cost"] = "profile:h100 (decode steps off by 1.4% on held-out points; calibrated)"
    origin = Origin("paged", config, {"kvsim": "0.1.0"}, 0.75, "run")

    found = {fact.name: fact for fact in facts([origin])}

    assert found["Step cost, error"].values == ("decode steps off by 1.4% on held-out points",)
    assert found["Steps inside what the cost profile measured"].values == ("75.0%",)
    assert basis_of([origin]) == "calibrated"


def test_a_run_alone_is_told_in_sentences(folder: Path) -> None:
    summary = collect([folder]).summary()

    said = sentences(summary[summary["policy"] == "paged"])

    assert re.match(r"paged completed \d+ of 40 requests at [\d.]+ requests/s; half of them", said[0])
    assert "of the KV memory was wasted" in said[1]


def test_runs_in_which_nothing_ran_have_a_page(tmp_path: Path) -> None:
    folder = compared(max_model_len=8).save(tmp_path / "none")

    text = Page(html_report(collect([folder]))).text

    assert "No request completed" in text
    assert "rejected" in text


def test_report_writes_a_file_and_says_what_is_missing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = swept(tmp_path / "rates", paged_2="failed")

    main(["report", str(folder), str(sweep), "-o", str(tmp_path / "new" / "report.html")])

    assert (tmp_path / "new" / "report.html").read_text().startswith("<!doctype html>")
    assert "1 of 8 cells are missing" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "report needs a folder"),
        (["nowhere"], "nowhere: no such folder"),
        ([".", "-o", "."], "--output must be a file"),
    ],
)
def test_report_refuses_in_one_line(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit) as caught:
        main(["report", *arguments])

    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_sweeps_without_differences_say_how_many_cells_there_are(tmp_path: Path) -> None:
    folder = swept(tmp_path / "flat")
    table = pd.read_csv(folder / "cells.csv").head(1)
    table.to_csv(folder / "cells.csv", index=False)

    assert sweep_sentences(read_sweep(folder)) == ["Sweep flat: 1 cell finished."]
