"""Regenerate the profiles that come with kvsim.

`python -m kvsim.calibration.ship TABLES`: TABLES holds the folders aiconfigurator, llmservingsim, vidur and
vidur-fork-AKafakA of published kernel tables. The same tables give the same bytes. Profiles hold fits and their errors,
not the tables' points.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kvsim.calibration.importers import build_profile, import_tables
from kvsim.errors import InputError
from kvsim.zoo import find_model

DATA = Path(__file__).parent / "data"
SEED = 0
DRAWS = 4
"""Splits into fitted and held-out points that the errors are stated on; the fit is of all points."""


class Shipped(NamedTuple):
    """One profile: who timed which card, for which model on how many GPUs."""

    format_name: str
    gpu: str
    model: str
    tensor_parallel_size: int = 1
    folder: str = ""
    """Of the tables; named like the format unless given."""
    source: Mapping[str, str] = {}
    """What the profile says otherwise of its origin."""
    allreduce: str | None = None
    """Folder of the tables that lend all-reduces."""

    @property
    def path(self) -> Path:
        """Return where it lies below the folder of profiles."""
        size = self.tensor_parallel_size
        return Path(self.gpu) / f"{self.model}{'' if size == 1 else f'-tp{size}'}.json"


LINKED = ("h100-sxm", "h200-sxm", "a100-80-sxm", "b200")
"""Cards with all-reduce tables."""
SHIPPED = (
    *(Shipped("aiconfigurator", gpu, "llama-3.1-8b") for gpu in (*LINKED, "l40s")),
    *(Shipped("aiconfigurator", gpu, "llama-3.1-70b", size) for gpu in LINKED for size in (2, 4, 8)),
    *(Shipped("llmservingsim", gpu, "llama-3.1-8b") for gpu in ("rtx4090", "rtx-pro-6000")),
    Shipped(
        "vidur",
        "a100-80-sxm",
        "llama-2-70b",
        2,
        folder="vidur/a100/meta-llama/Llama-2-70b-hf",
        allreduce="aiconfigurator",
    ),
    Shipped(
        "vidur",
        "a30",
        "qwen2.5-7b",
        folder="vidur-fork-AKafakA/a30/Qwen/Qwen-2-7B",
        source={
            "origin": "taken with Vidur's profiler, github.com/AKafakA/vidur_opt_scheduler (20bdc49)",
            "timed_model": "Qwen-2-7B, which has the same shapes",
        },
    ),
)


def ship(tables: Path, into: Path = DATA) -> list[Path]:
    """Import, fit and write every shipped profile; return their paths."""
    return [write_shipped(each, tables, into) for each in SHIPPED]


def write_shipped(each: Shipped, tables: Path, into: Path) -> Path:
    """Import, fit and write one profile below `into`."""
    model = find_model(each.model)
    found = import_tables(
        each.format_name,
        tables / (each.folder or each.format_name),
        model,
        tensor_parallel_size=each.tensor_parallel_size,
        gpu=each.gpu,
        allreduce=None if each.allreduce is None else tables / each.allreduce,
        seed=SEED,
    )
    found = replace(found, source={**found.source, **each.source})
    profile = build_profile(model, found, each.tensor_parallel_size, draws=DRAWS)
    path = into / each.path
    path.parent.mkdir(parents=True, exist_ok=True)
    profile.save(path, with_points=False)
    return path


def main() -> None:
    """Write the profiles and name each with its size."""
    parser = argparse.ArgumentParser(prog="python -m kvsim.calibration.ship", description=__doc__)
    parser.add_argument("tables", type=Path, metavar="TABLES", help="folder of the published tables' folders")
    parser.add_argument(
        "-o", "--output", type=Path, default=DATA, metavar="DIR", help="default: the package's own"
    )
    given = parser.parse_args()
    try:
        for path in ship(given.tables, given.output):
            print(f"{path}: {path.stat().st_size} bytes", file=sys.stderr)
    except InputError as error:
        parser.exit(2, f"kvsim: {error}\n")


if __name__ == "__main__":
    main()
