"""What a notebook shows for a run and a comparison."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from small_runs import trace

from kvsim import compare, simulate

SETTINGS: dict[str, Any] = {
    "num_gpu_blocks_override": 20,
    "block_size": 4,
    "max_model_len": 64,
    "cost": "linear:1,0,0",
}
WORK = replace(trace((0, 5, 3), (1, 9, 2)), name="<script>alert('1')</script>")


class Tags(HTMLParser):
    """Read HTML strictly: every tag is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Tags:
    """Parse what a notebook would get."""
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert not tags.open
    assert set(tags.seen) <= {"div", "table", "thead", "tbody", "tr", "th", "td", "b", "p", "small"}
    return tags


def test_a_run_shows_its_table_and_where_it_is_from() -> None:
    tags = parsed(simulate(WORK, "paged", **SETTINGS)._repr_html_())

    assert "TTFT, p50" in tags.text
    assert "trace <script>alert('1')</script> (2 requests" in tags.text
    assert "cost linear:1,0,0 (assumed)" in tags.text


def test_a_comparison_shows_a_column_a_policy() -> None:
    tags = parsed(compare(WORK, ["paged", "prefix:watermark=0.1"], **SETTINGS)._repr_html_())

    assert "pagedprefix:watermark=0.1" in tags.text


def test_an_empty_run_shows_a_table_too() -> None:
    assert "completed" in parsed(simulate(trace(), "paged", **SETTINGS)._repr_html_()).text
