"""Rows of Vidur's tables: one operator's times by size, for one model and degree of tensor parallelism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kvsim.calibration.table_file import optional_columns, read_table
from kvsim.errors import InputError
from kvsim.model import Model

NS_PER_MS = 1e6
STATISTICS = ("min", "median", "max")
DEGREE = "num_tensor_parallel_workers"
SIZES = ("num_tokens", "batch_size")
"""Columns that are at least 1; so is a prefill's chunk."""


class VidurTable:
    """One table, looked at for a model on some GPUs."""

    def __init__(self, path: Path, shape: Mapping[str, str], model: Model, size: int) -> None:
        """Take rows whose columns of `shape` are the model's fields, and whose degree is `size`."""
        self.path = path
        self.untimed: list[str] = []
        """Operators whose times some rows lack, a sentence each."""
        self._shape, self._model, self._size = shape, model, size

    def has(self, op: str) -> bool:
        """Tell whether the operator was timed at all."""
        return bool(optional_columns(self.path, [f"time_stats.{op}.median"]))

    def rows(self, op: str, keys: Sequence[str], is_prefill: bool | None = None) -> list[list[float]]:
        """Return the keys and the least, median and greatest ns of an operator.

        Rows with the same keys become one, by the median of each; rows without any of the three are left out.
        """
        times = [f"time_stats.{op}.{name}" for name in STATISTICS]

        def fitting(frame: pd.DataFrame) -> pd.Series:
            kept = self._fitting(frame, is_prefill)
            timed = kept & frame[times].notna().any(axis=1)
            lacking = int(kept.sum() - timed.sum())
            if lacking:
                self.untimed.append(
                    f"{op} has no times in {lacking} of {int(kept.sum())} rows of {self.path.name}"
                )
            return timed

        frame = read_table(
            self.path,
            counts=[*keys, *self._shape, DEGREE],
            batches=["batch_size"],
            sizes=[*SIZES, *(["prefill_chunk_size"] if is_prefill else [])],
            times=times,
            words=[] if is_prefill is None else ["is_prefill"],
            keep=fitting,
        )
        merged = frame.groupby(list(keys), sort=True)[times].median() * NS_PER_MS
        found: list[list[float]] = merged.round(3).reset_index().to_numpy(dtype=float).tolist()
        return found

    def _fitting(self, frame: pd.DataFrame, is_prefill: bool | None) -> pd.Series:
        kept = frame[DEGREE] == self._size
        for column, field in self._shape.items():
            kept &= frame[column] == getattr(self._model, field)
        if is_prefill is not None:
            kept &= frame["is_prefill"].astype(str).str.lower() == str(is_prefill).lower()
        if not kept.any():
            raise InputError(f"{self.path}: no rows {self._wanted(is_prefill)}; {self._there(frame)}")
        return kept

    def _wanted(self, is_prefill: bool | None) -> str:
        kind = "" if is_prefill is None else "of prefill " if is_prefill else "of decode "
        figures = ", ".join(
            f"{column} {getattr(self._model, field)}" for column, field in self._shape.items()
        )
        return f"{kind}with {figures} and {DEGREE} {self._size}"

    def _there(self, frame: pd.DataFrame) -> str:
        columns = [*self._shape, DEGREE]
        rows = frame[columns].drop_duplicates().head(4).to_numpy().tolist()
        return "there are " + "; ".join(
            ", ".join(f"{c} {v}" for c, v in zip(columns, row, strict=True)) for row in rows
        )
