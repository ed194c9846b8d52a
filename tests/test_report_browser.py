"""The report in Chromium: it draws, it answers the pointer, it fits a phone, and nothing in it complains."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import FLAGS, Browser, browser, missing
from reported import EVIL, compared, swept

from kvsim.reports.html import html_report
from kvsim.reports.sources import collect

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")

CELL = """
const box = document.querySelector('.picture').getBoundingClientRect();
return [box.left, box.top, box.width, box.height];
"""
TIP = """
const tip = document.getElementById('tip');
return tip.hidden ? [] : [...tip.children].map((line) => line.textContent);
"""
WIDE = "return [document.documentElement.scrollWidth, innerWidth]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    comparison = compared(name=EVIL)
    results = {EVIL: comparison.results["paged"], "prefix": comparison.results["prefix"]}
    runs = type(comparison)(results).save(folder / "compare")
    sweep = swept(folder / "rates", paged_2="failed")
    path = folder / "report.html"
    path.write_text(html_report(collect([runs, sweep])))
    return path


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def point_at_a_request(window: Browser) -> list[str]:
    """Move over the first map until a request is named; return what is said of it."""
    window.run("document.querySelector('.picture').scrollIntoView({block: 'center'})")
    left, top, width, height = window.run(CELL)
    for step in range(1, 200):
        window.move(left + width * (step % 20) / 20, top + height * (1 - step / 200))
        said: list[str] = window.run(TIP)
        if said and said[0].startswith("Request"):
            return said
    return []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_the_page_fits_its_window_and_complains_of_nothing(
    width: int, dark: bool, page: Path, window: Browser
) -> None:
    window.open(page, width, dark=dark)

    assert window.run(WIDE) == [width, width]
    assert window.complaints() == []


def test_every_figure_has_a_size(page: Path, window: Browser) -> None:
    window.open(page)

    sizes = window.run(
        "return [...document.querySelectorAll('svg, .picture img')].map((f) => f.getBoundingClientRect().height)"
    )

    assert len(sizes) > 10
    assert all(size > 50 for size in sizes)


def test_dark_is_dark_and_light_is_light(page: Path, window: Browser) -> None:
    def paper(**how: Any) -> int:
        window.open(page, **how)
        colour: str = window.run("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(","))

    assert paper(dark=False) > 600
    assert paper(dark=True) < 150
    # Paper is white, whatever the screen is.
    assert paper(dark=True, media="print") > 600


def test_pointing_at_a_cell_says_whose_it_is(page: Path, window: Browser) -> None:
    window.open(page)

    said = point_at_a_request(window)

    assert said[0].startswith("Request ")
    assert "slots" in said[1]
    assert "prompt" in said[2]


def test_arrow_keys_say_it_too(page: Path, window: Browser) -> None:
    window.open(page)
    window.run("document.querySelector('.picture').focus()")

    for key in ("ArrowLeft", "ArrowUp"):
        window.run(f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))")

    assert "slots" in window.run("return document.getElementById('readout').textContent")
    window.run("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert window.run(TIP) == []


def test_markup_from_input_does_nothing(page: Path, window: Browser) -> None:
    window.open(page)
    point_at_a_request(window)

    assert "owned" not in window.run("return document.title.split(' – ')[0].replace(arguments[0], '')", EVIL)
    assert EVIL in window.run("return document.body.textContent")
    assert window.complaints() == []


def test_a_script_that_got_in_would_not_run(page: Path, window: Browser, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(page.read_text().replace("<main>", f"<main>{EVIL}", 1))

    window.open(spoilt)

    assert window.run("return document.title") != "owned"
    assert any("Content Security Policy" in message for message in window.complaints())


def test_the_page_prints_with_its_settings_shown(page: Path, window: Browser) -> None:
    window.open(page, 720, media="print")

    shown = window.run(
        "return [...document.querySelectorAll('details')].map((part) => part.getBoundingClientRect().height)"
    )

    assert all(height > 100 for height in shown)
    assert window.pdf().startswith(b"%PDF")


def test_chromium_alone_draws_the_page_from_disk(page: Path, tmp_path: Path) -> None:
    binary = shutil.which("chromium")
    assert binary is not None

    command = [binary, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert "<canvas" in dom
