"""AIConfigurator's all-reduces, for its own profiles and for tables that have none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kvsim.calibration.aiconfigurator_files import NAME, NS_PER_MS, SOURCE, System, open_system
from kvsim.calibration.held_out import with_held_out
from kvsim.calibration.imported import NO_ALLREDUCE, Imported
from kvsim.calibration.points import Point
from kvsim.calibration.table_file import read_table
from kvsim.errors import InputError

BACKEND = "vllm"
BYTES_PER_ELEMENT = 2
"""All-reduce tables count bf16 elements: as bytes, 2 GPUs of H200 would reach a third of their links' rate."""


def allreduce_points(system: System, size: int) -> Iterator[Point]:
    """Yield all-reduces of `size` GPUs, in a graph and eager."""
    path = system.table("custom_allreduce_perf")
    time = system.time_column(path)
    frame = read_table(
        path,
        counts=["num_gpus", "message_size"],
        sizes=["message_size"],
        times=[time],
        words=["backend"],
    )
    rows = frame[frame["num_gpus"] == size]
    if rows.empty:
        there = ", ".join(str(each) for each in sorted(set(frame["num_gpus"])))
        raise InputError(f"{path}: no all-reduce of {size} GPUs; there are {there}")
    for backend, elements, ms in zip(rows["backend"], rows["message_size"], rows[time], strict=True):
        yield Point(
            id=f"allreduce-{backend}-{elements}",
            set=NAME,
            op="allreduce",
            ns=(round(ms * NS_PER_MS, 3),),
            message_bytes=BYTES_PER_ELEMENT * elements,
            gpus=size,
            mode="eager" if "eager" in backend else "graph",
            backend=backend,
        )


def with_allreduces(found: Imported, folder: Path, size: int, seed: int) -> Imported:
    """Add what AIConfigurator timed on the same card to tables without all-reduces, and say whose they are."""
    gpu = str(found.device["gpu"])
    system = open_system(folder, gpu, BACKEND)
    points = with_held_out(list(allreduce_points(system, size)), seed)
    tables = [str(path.relative_to(system.folder)) for path in system.read]
    borrowed = {name: SOURCE[name] for name in ("origin", "licence", "timing")} | {"tables": tables}
    kept = [warning for warning in found.warnings if warning != NO_ALLREDUCE]
    note = f"all-reduces are of other tables: {SOURCE['origin']}"
    return replace(
        found,
        points=(*found.points, *points),
        source={**found.source, "allreduce": borrowed},
        warnings=(*kept, note),
    )
