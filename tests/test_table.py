"""The comparison table: every number whole, in any width, on a terminal, in a file, in Markdown."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kvsim.errors import InputError
from kvsim.reports.table import (
    GROUPS,
    comparison_markdown,
    comparison_table,
    comparison_text,
    numbers,
    percent,
    print_comparison,
)

COLUMNS = [metric.column for metrics in GROUPS.values() for metric in metrics]


def frame(*names: str) -> pd.DataFrame:
    rows = []
    for place, name in enumerate(names or ("contiguous", "paged")):
        row = dict.fromkeys(COLUMNS, 0.25 + place / 100)
        row |= {
            "batch_capacity": 40 + place,
            "preemptions": place,
            "recomputed_tokens": 1_234_567_890 + place,
        }
        rows.append({"policy": name, **row, "p99_ttft_ms": 12_345.678 + place})
    return pd.DataFrame(rows)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_policies_stand_side_by_side_with_a_row_a_metric() -> None:
    text = comparison_text(frame())

    assert re.search(r"^ +contiguous +paged$", text, re.MULTILINE)
    assert re.search(r"^ +capacity, saturated +40 +41$", text, re.MULTILINE)
    assert re.search(r"^ +TTFT, p99 +12,346 +12,347$", text, re.MULTILINE)


def test_a_share_is_shown_in_percent() -> None:
    assert re.search(r"^ +live +25.0 +26.0$", comparison_text(frame()), re.MULTILINE)


def test_eight_policies_fit_where_there_is_no_terminal() -> None:
    eight = frame("contiguous", "paged", "prefix", "sliding-window", "a", "b", "c", "buddy-oracle")

    text = comparison_text(eight.assign(recomputed_tokens=9_999_999))

    assert text.count("capacity, saturated") == 1
    assert max(map(len, text.splitlines())) <= 120


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 130))
def test_no_number_is_cut_in_any_width(policies: int, width: int) -> None:
    table = frame(*(f"policy-{place}" for place in range(policies)))

    text = comparison_text(table, width=width)

    assert "…" not in text
    for place in range(policies):
        assert f"{1_234_567_890 + place:,}" in text.split()


def test_policies_that_do_not_fit_are_shared_out_evenly() -> None:
    text = comparison_text(frame("a", "b", "c", "d"), width=80)

    assert re.findall(r"^ +preemptions +(.*)$", text, re.MULTILINE) == [
        "0              1",
        "2              3",
    ]


def test_a_narrow_console_folds_names_and_leaves_numbers_whole() -> None:
    stream = io.StringIO()

    Console(file=stream, width=58).print(comparison_table(frame()))

    assert "1,234,567,890" in stream.getvalue()
    assert "…" not in stream.getvalue()


def test_the_best_is_bold_on_a_terminal(terminal: Terminal) -> None:
    print_comparison(frame(), stream=terminal)

    waste = next(line for line in terminal.getvalue().splitlines() if "waste" in line)
    assert re.search(r"\x1b\[1;32m +25\.0\x1b\[0m +26\.0", waste)


def test_nothing_is_best_where_all_are_equal(terminal: Terminal) -> None:
    print_comparison(frame().assign(waste=0.5), stream=terminal)

    waste = next(line for line in terminal.getvalue().splitlines() if "waste" in line)
    assert "\x1b[1;32m" not in waste


def test_no_color_is_respected(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    print_comparison(frame(), stream=terminal)

    assert not re.search(r"\x1b\[[\d;]*3\d", terminal.getvalue())


def test_a_file_gets_no_escape_codes_even_when_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    assert "\x1b" not in comparison_text(frame())


def test_a_stream_without_unicode_gets_plain_characters() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    print_comparison(frame(), stream=stream)

    stream.flush()
    assert b"---" in stream.buffer.getvalue()


def test_markdown_has_a_row_a_metric_and_the_caption_below() -> None:
    lines = comparison_markdown(frame("a|b", "paged"), caption="trace t | seed 0").splitlines()

    assert lines[:3] == ["|  | a\\|b | paged |", "| --- | ---: | ---: |", "| **Memory (% of pool)** |  |  |"]
    assert "| &nbsp;&nbsp;reserved | 25.0 | 26.0 |" in lines
    assert lines[-1] == "*trace t \\| seed 0*"


def test_the_caption_is_the_last_line_and_no_markup() -> None:
    assert comparison_text(frame(), caption="trace [red]t[/red]").splitlines()[-1] == "trace [red]t[/red]"


def test_a_column_the_frame_lacks_is_a_row_the_table_lacks() -> None:
    text = comparison_text(frame().drop(columns=[m.column for m in GROUPS["Throughput"]]))

    assert "requests/s" not in text
    assert "Throughput" not in text
    assert "Latency" in text


def test_a_row_of_zeros_about_rare_things_is_left_out() -> None:
    text = comparison_text(frame().assign(swapped_bytes=0, rejected=[0, 3]))

    assert "swapped" not in text
    assert re.search(r"^ +rejected +0 +3$", text, re.MULTILINE)


def test_what_was_not_measured_is_a_dash() -> None:
    text = comparison_text(frame().assign(p50_ttft_ms=[float("nan"), 20.0]))

    assert re.search(r"^ +TTFT, p50 +- +20$", text, re.MULTILINE)


def test_a_frame_without_policies_is_refused() -> None:
    with pytest.raises(InputError, match="comparison table: no column 'policy'"):
        comparison_table(pd.DataFrame({"live": [1.0]}))


def test_a_row_of_numbers_shares_its_decimals() -> None:
    assert numbers([2.0, 4.638]) == ("2.00", "4.64")
    assert numbers([3.0, 1200.0]) == ("3", "1,200")
    assert numbers([68.94, 6754.61]) == ("68.9", "6,754.6")
    assert numbers([0.01234, float("nan"), float("inf")]) == ("0.012", "-", "inf")


@given(st.lists(st.floats(0, 1e15), min_size=1))
def test_no_number_has_an_exponent(values: list[float]) -> None:
    assert all(re.fullmatch(r"[\d,]+(\.\d{1,3})?", text) for text in numbers(values))


def test_a_small_share_is_not_nothing() -> None:
    assert [percent(value) for value in (0.0, 0.0001, 0.05, 100.0)] == ["0.0", "<0.1", "0.1", "100.0"]


def test_every_column_of_the_table_is_in_the_data_dictionary() -> None:
    text = (Path(__file__).resolve().parents[1] / "reports" / "README.md").read_text()
    known = set(re.findall(r"`(\w+)`", text)) | {"p50_ttft_ms", "p50_tpot_ms", "p99_tpot_ms"}

    assert not set(COLUMNS) - known
