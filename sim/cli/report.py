"""`kvsim report`: one HTML file of what runs, comparisons and sweeps found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(
    *folders: Annotated[Path, Parameter(help="Run, comparison and sweep folders, at least one.")],
    output: Annotated[
        Path, Parameter(name=("--output", "-o"), help="HTML file to write; one that is there is replaced.")
    ] = Path("report.html"),
) -> None:
    """Write one HTML file of runs, comparisons and sweeps: the answer, table, memory maps, plots, provenance.

    The file needs nothing else: it opens from disk, prints, and follows light and dark. What a sweep or
    comparison lacks is said in it.
    """
    from kvsim.errors import InputError

    if not folders:
        raise InputError(
            "report needs a folder that kvsim run, compare or demo wrote, as in kvsim report DIR"
        )
    if output.is_dir():
        raise InputError(f"--output must be a file, {str(output)!r} is a folder")
    from kvsim.reports import html_report
    from kvsim.reports.sources import collect
    from kvsim.whole_file import WholeFile

    sources = collect(folders)
    output.parent.mkdir(parents=True, exist_ok=True)
    page = WholeFile(output)
    try:
        page.write(html_report(sources).encode())
        page.keep()
    finally:
        page.discard()
    for sentence in sources.missing:
        print(sentence, file=sys.stderr)
    print(f"Written to {output}", file=sys.stderr)
