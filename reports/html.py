"""The report: one HTML file that needs nothing else, from what lies in run, comparison and sweep folders."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import kvsim
from kvsim.reports.facts import BASES, basis_of, changed_settings, facts, setting_facts, sweep_facts
from kvsim.reports.headline import sentences, sweep_sentences
from kvsim.reports.map_section import map_context
from kvsim.reports.page_plots import run_sections, sweep_section
from kvsim.reports.table import table_lines

if TYPE_CHECKING:
    from pandas import DataFrame

    from kvsim.reports.sources import Sources

SIDE_BY_SIDE = 6
"""Most runs in one table; more would not fit a printed page."""

_TIMED = ("Throughput", "Latency")
"""Groups of the table whose figures rest on the step cost."""

Context = dict[str, Any]  # Any: what a template takes


def html_report(sources: Sources) -> str:
    """Return the page: the answer in a sentence, table, memory maps, plots, provenance."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    package = files("kvsim.reports")
    style, script = (package.joinpath(f"report.{kind}").read_text("utf-8").strip() for kind in ("css", "js"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["zip"] = zip
    template = environment.from_string(package.joinpath("report.html.j2").read_text("utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        _context(sources),
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        version=kvsim.__version__,
    )


def _context(sources: Sources) -> Context:
    runs, sweeps = sources.runs, sources.sweeps
    summary = sources.summary() if runs else None
    said = [] if summary is None else sentences(summary)
    for sweep in sweeps:
        among = f"{sweep.name}: " if len(sweeps) > 1 or runs else ""
        said += [f"{among}{sentence}" for sentence in (sweep_sentences(sweep) if len(sweep.cells) else ())]
    headline, *more = said or ["Nothing has finished yet."]
    origins = sources.origins
    basis = basis_of([*origins, *(origin for sweep in sweeps for origin in sweep.origins)])
    return {
        "title": f"{_subject(sources)} – kvsim",
        "subject": _subject(sources),
        "headline": headline,
        "more": more,
        "basis": basis,
        "missing": sources.missing,
        "tables": [] if summary is None else list(_tables(summary, basis)),
        **map_context(runs),
        "plots": [
            *run_sections(sources),
            *(sweep_section(sweep, place) for place, sweep in enumerate(sweeps)),
        ],
        "names": [run.name for run in runs],
        "facts": facts(origins),
        "settings": setting_facts(origins),
        "changed": changed_settings(origins),
        "experiments": [
            {"name": sweep.name, "text": sweep.experiment, "facts": sweep_facts(sweep.origins)}
            for sweep in sweeps
        ],
        "bases": BASES,
    }


def _subject(sources: Sources) -> str:
    """Name the traces, or the sweeps."""
    traces = dict.fromkeys(str(run.result.config["trace"]["name"]) for run in sources.runs)
    return ", ".join([*traces, *(sweep.name for sweep in sources.sweeps)])


def _tables(summary: DataFrame, basis: str) -> list[Context]:
    parts = [summary.iloc[first : first + SIDE_BY_SIDE] for first in range(0, len(summary), SIDE_BY_SIDE)]
    return [{"names": part["policy"].tolist(), "groups": _groups(part, basis)} for part in parts]


def _groups(part: DataFrame, basis: str) -> list[Context]:
    groups: list[Context] = []
    for line in table_lines(part):
        if not line.cells:
            timed = line.label.startswith(_TIMED)
            note = f"computed, step cost {basis}" if timed else "computed"
            groups.append(
                {"heading": line.label, "rows": [], "note": note, "basis": basis if timed else "computed"}
            )
            continue
        row = {
            "label": line.label.strip(),
            "inner": line.label.startswith(" "),
            "cells": list(zip(line.cells, line.best, strict=True)),
        }
        groups[-1]["rows"].append(row)
    return groups
