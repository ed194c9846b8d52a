"""The table of published facts: what it says, what it may say, and that nothing of the list is dropped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvsim.calibration.profile_file import shipped_profiles
from kvsim.cli.validate_measures import ORDER, check_parameters
from kvsim.errors import InputError
from kvsim.validate_table import Check, Miss, Tolerance, all_checks, chosen_checks, read_checks

LIST = Path(__file__).resolve().parents[2] / "shared" / "published_results.md"
CHECKS = {check.id: check for check in all_checks()}
MEASURED = {name: check for name, check in CHECKS.items() if check.measure}
HEAD = '[sources]\npaper = "A paper"\n[setups.small]\nmodel = "opt-13b"\ntokens = 3\n[[check]]\nid = "A"\n'
ROW = f'{HEAD}class = "E"\nwhat = "w"\nsource = "paper"\nmeasure = "kv_bytes"\nfigure = "bytes"\n'


@pytest.mark.parametrize("check", MEASURED.values(), ids=MEASURED)
def test_every_row_names_a_measure_and_parameters_that_it_takes(check: Check) -> None:
    assert check.measure in ORDER
    check_parameters(check.measure, check.parameters)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_every_row_says_what_it_is_and_where_it_comes_from(check: Check) -> None:
    assert check.what
    assert check.source
    assert bool(check.measure) == (check.published is not None) == bool(check.figure)


def test_no_measure_is_left_unused() -> None:
    assert {check.measure for check in MEASURED.values()} == set(ORDER)


def test_exact_rows_have_no_documented_miss() -> None:
    assert not [check.id for check in CHECKS.values() if check.miss is not None and check.kind != "T"]


def test_every_shipped_profile_is_held_to_the_roofline_and_to_its_error() -> None:
    for head in ("X6", "X7", "C1"):
        assert {
            check.parameters["profile"] for check in chosen_checks(all_checks(), [head], None, False)
        } == set(shipped_profiles())


@pytest.mark.shared
@pytest.mark.skipif(not LIST.is_file(), reason="../shared with the list of published results is not there")
def test_nothing_of_the_list_of_published_results_is_dropped() -> None:
    listed = set(re.findall(r"^\| ([PLR]\d+) \|", LIST.read_text(encoding="utf-8"), re.MULTILINE))
    text = Path(__file__).resolve().parents[1].joinpath("sim", "published.toml").read_text(encoding="utf-8")

    assert len(listed) > 120
    assert not {name for name in listed if not re.search(rf"\b{name}\b", text)}


def test_a_row_takes_its_setup_and_its_own_parameters() -> None:
    (row,) = read_checks(f'{ROW}setup = "small"\ntokens = 4\npublished = 1\nwithin = 0.1\n', "t.toml")

    assert row.parameters == {"model": "opt-13b", "tokens": 4}
    assert row.tolerance == Tolerance("within", 0.1)
    assert row.origin == "A paper"


def test_cases_are_rows_with_what_they_say_on_top() -> None:
    cases = '{ name = "x", published = 1, digits = 0 }, { name = "y", published = [1, 2], tokens = 5 }'
    first, second = read_checks(f'{ROW}model = "opt-13b"\nwithin = 0.1\ncases = [{cases}]\n', "t.toml")

    assert (first.id, second.id) == ("A/x", "A/y")
    assert first.tolerance == Tolerance("digits", 0)
    # Several numbers are compared as they are.
    assert second.tolerance == Tolerance()
    assert second.published == (1, 2)
    assert second.parameters == {"model": "opt-13b", "tokens": 5}


def test_a_documented_miss_says_where_and_why() -> None:
    (row,) = read_checks(f'{ROW}published = 1\nmiss = {{ least = 0, most = 2, cause = "c" }}\n', "t.toml")

    assert row.miss == Miss(0, 2, "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[check", r"t.toml: not TOML: "),
        (ROW.replace('"E"', '"Z"'), r"t.toml: check A: class must be one of E, T, C, physics, got 'Z'"),
        (ROW.replace('source = "paper"', 'source = "no"'), r"check A: source must be one of \[sources\], got 'no'"),
        (f'{ROW}unchecked = "why"\n', r"check A: needs either a measure or the reason why it is unchecked"),
        (f'{ROW}setup = "big"\n', r"check A: setup must be one of \[setups\], got 'big'"),
        (f"{ROW}digits = 1\nwithin = 0.1\n", r"check A: has both digits and within"),
        (f'{ROW}bound = "about"\n', r"check A: bound must be one of least, most, between, got 'about'"),
        (ROW.replace('what = "w"\n', ""), r"check A: .*what"),
        (ROW + ROW[ROW.index("[[check]]") :], r"t.toml: check A is there twice"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_checks(text, "t.toml")


@pytest.mark.parametrize(
    ("only", "count"), [(["P50"], 9), (["P50/1000"], 1), (["L1"], 4), (["P2", "P3"], 2), (["P35"], 1)]
)
def test_rows_are_chosen_by_id_line_or_name(only: list[str], count: int) -> None:
    assert len(chosen_checks(all_checks(), only, None, False)) == count


def test_long_rows_are_run_when_all_or_they_are_asked_for() -> None:
    def count(only: list[str], slow: bool) -> int:
        return len([check for check in chosen_checks(all_checks(), only, None, slow) if check.slow])

    assert count([], slow=False) == 0
    assert count([], slow=True) == count(["P43-long"], slow=False) == 2


def test_rows_are_chosen_by_class() -> None:
    assert {check.kind for check in chosen_checks(all_checks(), [], "physics", False)} == {"physics"}


def test_an_unknown_id_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"--only: there is no check 'P500' \(did you mean 'P50'"):
        chosen_checks(all_checks(), ["P500"], None, False)
