"""Vidur's host overheads: what the CPU spends between steps, by batch size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kvsim.calibration.nnls import relative_nnls
from kvsim.calibration.table_file import read_table

PARTS = ("schedule_mean", "prepare_inputs_e2e_mean", "process_model_outputs_mean")
"""What a step waits for; the sampler is GPU time, and Ray's messages belong to that engine alone."""


class HostTimes(NamedTuple):
    """Host time of a step and a request, and the tables it came from."""

    host: Mapping[str, object]
    """`step` and `request` in seconds, and `source`; empty without a table."""
    tables: tuple[str, ...]
    warnings: tuple[str, ...]


def host_times(folder: Path, model: str, size: int) -> HostTimes:
    """Fit step + request · batch size to the nearest table above a model's folder.

    The table is `cpu_overheads*.csv`. Rows of this degree of tensor parallelism are taken, else those of the nearest;
    models are not told apart, since the host does the same for each.
    """
    places = [folder, *folder.absolute().parents[:3]]
    path = next((found for place in places for found in sorted(place.glob("cpu_overheads*.csv"))), None)
    if path is None:
        return HostTimes({}, (), ("no cpu_overheads table: host time is not in the profile",))
    frame = read_table(
        path, words=["model_name"], counts=["batch_size", "tensor_parallel_degree"], times=PARTS
    )
    degree = min(set(frame["tensor_parallel_degree"].tolist()), key=lambda each: (abs(each - size), each))
    rows = frame[frame["tensor_parallel_degree"] == degree]
    sizes = rows["batch_size"].to_numpy(dtype=float)
    seconds = rows[list(PARTS)].sum(axis=1).to_numpy(dtype=float) * 1e-3
    step, request = relative_nnls(np.stack([np.ones(len(sizes)), sizes], axis=1), seconds).tolist()
    names = ", ".join(sorted(set(rows["model_name"])))
    host = {
        "step": float(f"{step:.7g}"),
        "request": float(f"{request:.7g}"),
        "source": f"Vidur's {path.name}: {names} on {degree} GPUs",
    }
    return HostTimes(host, (path.name,), (f"host times were measured with {names} on {degree} GPUs",))
