"""When a figure is near enough, and how it is written."""

from __future__ import annotations

from typing import Any

import pytest

from kvsim.validate_report import csv_text, difference, number, published, record, summary, tolerance
from kvsim.validate_table import Check, Interval, Miss, Tolerance, Value
from kvsim.validate_verdict import FAILED, Row, judge, unchecked


def check(published: Value | None = 10, tolerance: Tolerance = Tolerance(), **more: Any) -> Check:  # noqa: B008
    given = {"id": "A", "kind": "T", "what": "w", "source": "s", "short": "k", "measure": "m", "figure": "f"}
    return Check(published=published, tolerance=tolerance, **(given | more))


@pytest.mark.parametrize(
    ("tolerance", "inside", "outside"),
    [
        (Tolerance(), 10, 10.001),
        (Tolerance("digits", 1), 10.05, 10.06),
        (Tolerance("digits", -1), 14.9, 15.1),
        (Tolerance("within", 0.1), 11, 11.1),
        (Tolerance("plus_minus", 3), 7, 6.9),
        (Tolerance("least"), 10, 9.9),
        (Tolerance("most"), 10, 10.1),
    ],
)
def test_a_band_ends_where_it_says(tolerance: Tolerance, inside: float, outside: float) -> None:
    assert judge(check(tolerance=tolerance), inside).verdict == "in band"
    assert judge(check(tolerance=tolerance), outside).verdict == "OUT OF BAND"


def test_a_published_range_holds_its_ends() -> None:
    ratio = check((1.7, 2.7), Tolerance("between"))

    assert [judge(ratio, value).verdict for value in (1.7, 2.7, 1.69)] == [
        "in band",
        "in band",
        "OUT OF BAND",
    ]
    assert judge(ratio, 2.0).difference is None


def test_an_interval_reaches_the_published_with_its_ends_or_not() -> None:
    exact = check(kind="E")

    assert judge(exact, Interval(9, 9.5, 10)).verdict == "exact"
    assert judge(exact, Interval(9, 9.5, 9.9)).verdict == "OFF"
    assert judge(check(kind="E", tolerance=Tolerance("digits", 0)), Interval(9, 9.2, 9.5)).verdict == "exact"


def test_lists_and_words_are_compared_as_they_are() -> None:
    assert judge(check((1, 2)), (1, 2)).verdict == "in band"
    assert judge(check((1, 2)), (2, 1)).verdict == "OUT OF BAND"
    assert judge(check(("a", "b")), ("a", "b")).verdict == "in band"


def test_no_number_is_never_near() -> None:
    assert judge(check(tolerance=Tolerance("within", 1)), float("nan")).verdict == "OUT OF BAND"


def test_ours_is_shown_in_the_published_unit() -> None:
    row = judge(check(1.6, Tolerance("digits", 1), unit="GiB", scale=2**30), 1.5625 * 2**30)

    assert row.ours == 1.5625
    assert row.difference == pytest.approx(-0.0375)
    assert (published(row.check), number(row.ours), difference(row)) == ("1.6 GiB", "1.562", "-2.34 %")


def test_a_documented_miss_is_fine_only_where_it_is_documented() -> None:
    missed = check(tolerance=Tolerance("within", 0.1), miss=Miss(5, 10, "the cause"))
    inside, known, new = (judge(missed, value) for value in (9.5, 6, 4))

    assert (inside.verdict, known.verdict, new.verdict) == ("in band", "known miss", "OUT OF BAND")
    assert known.note == "the cause"
    assert [row.is_fine for row in (inside, known, new)] == [True, True, False]


def test_an_unchecked_row_says_what_is_missing_or_why_there_is_nothing_to_do() -> None:
    assert unchecked(check(unchecked="not yet: needs beams")).verdict == "not yet"
    assert unchecked(check(unchecked="not yet: needs beams")).note == "needs beams"
    assert unchecked(check(unchecked="a definition")).verdict == "context"


def test_a_claim_is_shown_beside_ours_and_never_judged() -> None:
    row = judge(check(kind="C"), 500)

    assert (row.verdict, row.ours, row.is_fine, tolerance(row)) == ("context", 500, True, "")
    assert summary([row]) == ["1 C rows show ours beside a claim, for its direction only"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"), (0.5, "0.50000"), (12.345, "12.35"), (7.0, "7"), (1e-16, "1.0e-16"), (123.45, "123.5"),
        ((1, 2), "1, 2"), (Interval(1, 1, 1), "1"), (Interval(1, 2, 3), "2 (1 to 3)"), (None, ""), ("a", "a"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_people_read_them(value: Value | Interval | None, text: str) -> None:
    assert number(value) == text


def test_the_summary_counts_what_was_and_was_not_checked() -> None:
    rows = [
        judge(check(kind="E"), 10),
        judge(check(kind="E"), 11),
        judge(check(miss=Miss(5, 10, "c")), 6),
        Row(check(), None, FAILED, "broken"),
        judge(check(kind="physics"), 10),
        unchecked(check(unchecked="not yet: needs beams")),
    ]

    assert summary(rows) == [
        "1 of 2 E rows exact, 1 off",
        "0 of 2 T rows in band, 1 missed for a known cause, 1 failed",
        "1 of 1 physics rows hold",
        "not checked: 1 are not measured yet",
    ]


def test_csv_has_a_line_a_row_and_numbers_as_they_are() -> None:
    text = csv_text([judge(check((1, 2)), (1, 2)), judge(check(tolerance=Tolerance("within", 0.1)), 10.5)])

    head, first, second = text.splitlines()
    assert head.startswith("id,class,what,source,conditions,published,unit,ours,difference")
    assert first == "A,T,w,s,,1 2,,1 2,,,equal,in band,"
    assert second == "A,T,w,s,,10,,10.5,0.5,0.05,± 10 %,in band,"


def test_a_record_has_the_ends_of_an_interval() -> None:
    assert record(judge(check(), Interval(9, 10, 11)))["ours"] == [9, 10, 11]


def test_a_figure_with_a_range_of_its_own_says_so() -> None:
    assert tolerance(judge(check(), Interval(9, 10, 11))) == "in our range"
    assert (
        tolerance(judge(check(tolerance=Tolerance("within", 0.1)), Interval(9, 10, 11))) == "our range ± 10 %"
    )
    assert tolerance(judge(check(tolerance=Tolerance("within", 0.1)), Interval(10, 10, 10))) == "± 10 %"
    assert tolerance(unchecked(check(measure="", unchecked="a definition"))) == ""
