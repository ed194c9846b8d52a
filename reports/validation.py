"""The page of a validation: every check with its source, what kvsim makes of it, and what was not checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

import kvsim


class Line(NamedTuple):
    """One check in words."""

    id: str
    what: str
    conditions: str
    source: str
    published: str
    ours: str
    difference: str
    tolerance: str
    verdict: str
    note: str
    state: str
    """good, miss, bad or open, which the page colours."""


def validation_html(
    lines: Sequence[Line], summary: Sequence[str], *, command: str, environment: Mapping[str, str]
) -> str:
    """Return the page, which needs no other file; `command` is what writes it again."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    package = files("kvsim.reports")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = page.from_string(package.joinpath("validation.html.j2").read_text("utf-8"))
    return template.render(
        style=Markup(package.joinpath("report.css").read_text("utf-8").strip()),
        summary=summary,
        bad=[line for line in lines if line.state == "bad"],
        misses=[line for line in lines if line.state == "miss"],
        checked=[line for line in lines if line.state != "open"],
        unchecked=[line for line in lines if line.state == "open"],
        command=command,
        environment=environment,
        version=kvsim.__version__,
    )
