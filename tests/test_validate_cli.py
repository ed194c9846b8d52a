"""`kvsim validate`: what it prints and writes, and how it exits."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kvsim import validate_table
from kvsim.cli import main
from kvsim.validate_table import Check, read_checks

TABLE = """
[sources]
paper = "A <b>paper</b> & more"
[[check]]
id = "A"
class = "E"
what = "KV of a token [bold]"
source = "paper"
measure = "kv_bytes"
model = "opt-13b"
figure = "bytes"
published = 819200
[[check]]
id = "B"
class = "T"
what = "missed"
source = "paper"
measure = "kv_bytes"
model = "opt-13b"
figure = "bytes"
published = 800000
within = 0.01
miss = { least = 819200, most = 819200, cause = "KB are 1,000 bytes there" }
[[check]]
id = "C"
class = "C"
what = "a claim"
source = "paper"
unchecked = "not yet: needs beams"
"""


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, TABLE)


def use(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    rows: tuple[Check, ...] = read_checks(text, "t.toml")
    monkeypatch.setattr(validate_table, "all_checks", lambda: rows)


@pytest.mark.usefixtures("table")
def test_the_table_says_each_row_its_cause_and_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate"])

    printed = capsys.readouterr()
    assert "KV of a token [bold]" in printed.out
    assert "B  known miss: missed; KB are 1,000 bytes there" in printed.out
    assert "C  not yet: a claim; needs beams" in printed.out
    assert printed.out.splitlines()[-3:] == [
        "1 of 1 E rows exact",
        "0 of 1 T rows in band, 1 missed for a known cause",
        "not checked: 1 are not measured yet",
    ]
    assert printed.err == ""


def test_a_row_that_is_off_without_a_cause_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, TABLE.replace("819200\n", "819201\n", 1))

    with pytest.raises(SystemExit) as stopped:
        main(["validate"])

    assert stopped.value.code == 1
    assert "0 of 1 E rows exact, 1 off" in capsys.readouterr().out


@pytest.mark.usefixtures("table")
def test_json_is_one_object_with_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert found["fine"] is True
    assert found["counts"] == {"E": {"exact": 1}, "T": {"known miss": 1}, "C": {"not yet": 1}}
    assert [row["id"] for row in found["checks"]] == ["A", "B", "C"]
    assert found["checks"][1]["difference"] == 19200


class Reader(HTMLParser):
    """Collects tags and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.usefixtures("table")
def test_the_page_needs_nothing_else_and_takes_nothing_for_markup(tmp_path: Path) -> None:
    main(["validate", "-o", str(tmp_path / "out")])

    reader = Reader()
    reader.feed((tmp_path / "out" / "validation.html").read_text(encoding="utf-8"))
    assert reader.addresses == []
    assert "b" not in reader.tags
    assert "script" not in reader.tags
    assert "A <b>paper</b> & more" in reader.words
    assert "KB are 1,000 bytes there" in reader.words


@pytest.mark.usefixtures("table")
def test_csv_has_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", "-o", str(tmp_path / "out")])

    with (tmp_path / "out" / "validation.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["verdict"]) for row in rows] == [
        ("A", "exact"),
        ("B", "known miss"),
        ("C", "not yet"),
    ]
    assert capsys.readouterr().err.startswith("Written to ")


@pytest.mark.usefixtures("table")
def test_a_page_of_what_is_off_says_so_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(
        monkeypatch,
        TABLE.replace('cause = "', 'cause = "').replace(
            "least = 819200, most = 819200", "least = 0, most = 1"
        ),
    )

    with pytest.raises(SystemExit):
        main(["validate", "-o", str(tmp_path / "out")])

    page = (tmp_path / "out" / "validation.html").read_text(encoding="utf-8")
    assert "Something is off without a known cause" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "Z"], "--only: there is no check 'Z'"),
        (["--only", "A", "--class", "T"], "--only A: none of these rows is of class T"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["-o", "."], "output folder '.' exists and is not empty"),
    ],
)
@pytest.mark.usefixtures("table")
def test_wrong_use_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["validate", *arguments])

    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.usefixtures("table")
def test_rows_are_chosen_by_id(capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", "--only", "A, C", "--json"])

    assert [row["id"] for row in json.loads(capsys.readouterr().out)["checks"]] == ["A", "C"]
