"""`kvsim calibrate kv-error`: what quantised KV does to attention's output, on made-up inputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from kvsim.calibration.kv_quantization import Inputs, KvError


def kv_error(
    *,
    dtypes: Annotated[
        str | None, Parameter(help="KV dtypes, with commas; all that --kv-cache-dtype knows unless given.")
    ] = None,
    tokens: Annotated[int, Parameter(help="Length of the cached sequence, in tokens.")] = 1024,
    queries: Annotated[int, Parameter(help="Queries a head.")] = 32,
    heads: Annotated[int, Parameter(help="KV heads.")] = 8,
    head_dim: Annotated[int, Parameter(help="Elements of a head.")] = 128,
    outlier_channels: Annotated[int, Parameter(help="Wide channels of each head's keys.")] = 4,
    outlier_scale: Annotated[float, Parameter(help="How many times as wide they are.")] = 10.0,
    seeds: Annotated[int, Parameter(help="Draws of the inputs.")] = 5,
    output: Annotated[
        Path | None,
        Parameter(name=["--output", "-o"], help="Folder for kv_error.csv and the plot (PNG, SVG)."),
    ] = None,
    json: Annotated[bool, Parameter(negative=(), help="Print one JSON object instead of text.")] = False,
) -> None:
    """Measure how far attention's output is off when K and V are quantised, on random and on outlier-heavy inputs.

    The error is ‖output − exact‖ / ‖exact‖, computed on the CPU in float64 from K and V as they are read back. The
    inputs are made up, so this says nothing about the quality of a model's answers.
    """
    from kvsim.calibration.kv_quantization import Inputs, measure_errors
    from kvsim.cli.print_json import print_json
    from kvsim.model import KV_BITS

    given = Inputs(
        tokens=tokens,
        queries=queries,
        heads=heads,
        head_dim=head_dim,
        outlier_channels=outlier_channels,
        outlier_scale=outlier_scale,
        seeds=range(seeds),
    )
    wanted = list(KV_BITS) if dtypes is None else [name.strip() for name in dtypes.split(",")]
    rows = list(measure_errors(given, wanted))
    if output is not None:
        _save(rows, given, output)
    if json:
        print_json({"basis": _basis(given), "rows": [row._asdict() for row in rows]})
    else:
        print(_text(rows, given))


def _save(rows: list[KvError], given: Inputs, folder: Path) -> None:
    import pandas as pd

    from kvsim.errors import InputError
    from kvsim.reports.kv_error import plot_kv_error
    from kvsim.reports.style import figure_of, save_figure
    from kvsim.whole_file import WholeFile

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder}: cannot be made: {error.strerror}") from error
    frame = pd.DataFrame([row._asdict() for row in rows])
    table = WholeFile(folder / "kv_error.csv")
    table.write(frame.to_csv(index=False).encode())
    table.keep()
    save_figure(figure_of(plot_kv_error(frame, caption=_basis(given))), folder / "kv_error")
    print(f"Written to {folder}: kv_error.csv, kv_error.png, kv_error.svg", file=sys.stderr)


def _text(rows: list[KvError], given: Inputs) -> str:
    """Put both kinds of inputs side by side."""
    errors = {(row.dtype, row.keys, row.inputs): row for row in rows}
    lines = [
        f"{'KV dtype':<10}{'bits':>7}  {'keys scaled by':<15}{'random':>10}{'worst':>10}{'outliers':>10}{'worst':>10}"
    ]
    for row in rows:
        if row.inputs == "random":
            other = errors[row.dtype, row.keys, "outliers"]
            figures = "".join(f"{value:>10.2g}" for value in (row.mean, row.worst, other.mean, other.worst))
            lines.append(f"{row.dtype:<10}{row.bits:>7.3f}  {row.keys:<15}{figures}")
    return "\n".join([*lines, _basis(given)])


def _basis(given: Inputs) -> str:
    from importlib.metadata import version

    return (
        f"relative error of attention's output (measured on CPU, torch {version('torch')}; "
        f"{len(given.seeds)} draws of {given.heads} heads of {given.head_dim}, {given.tokens} tokens, "
        f"{given.queries} queries; outliers: "
        f"{given.outlier_channels} channels of each head's keys {given.outlier_scale:g} times as wide)"
    )
