"""What a GPU has: memory, bandwidth and arithmetic, from the table `gpus.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from kvsim.errors import InputError, nearest

GB = 10**9
MIB = 2**20
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator; rates are dense (no sparsity) peaks of its datasheet."""

    name: str
    """What `--gpu` calls it."""
    memory_gb: float
    """Memory on the box, in the datasheet's GB."""
    memory_bytes: int
    """Memory a program sees: as a driver or log reports it, else the datasheet's GB read as GiB."""
    memory_source: str
    """Where `memory_bytes` comes from."""
    bandwidth: float
    """Bytes a second to and from memory."""
    bf16_flops: float
    """Dense bf16 operations a second."""
    fp8_flops: float | None = None
    """Dense fp8 operations a second (int8 where the source says so); None without fp8 units."""
    sms: int | None = None
    """Streaming multiprocessors (compute units on AMD); None where unknown."""
    l2_bytes: int | None = None
    """Last-level cache, in bytes; None where unknown."""
    source: str = ""
    """Where the rates come from."""
    verified: bool = True
    """Whether every rate was seen in a source that is not contradicted."""

    @property
    def memory_reported(self) -> bool:
        """Say whether `memory_bytes` was reported, and not read off the box."""
        return self.memory_source != NOMINAL


NOMINAL = "datasheet GB read as GiB"


def gpu_names() -> tuple[str, ...]:
    """Return the known GPUs' names, in the table's order."""
    return tuple(_table())


def find_gpu(name: str) -> Gpu:
    """Return a GPU by name; an unknown one is answered with the nearest names."""
    if name not in _table():
        raise InputError(
            f"unknown GPU {name!r}{nearest(name, _table())}; see `kvsim capacity --list` for all of them"
        )
    row = _table()[name]
    reported = row.get("reported_mib")
    l2_mb = row.get("l2_mb")
    fp8 = row.get("dense_fp8_tflops")
    return Gpu(
        name=name,
        memory_gb=row["memory_gb"],
        memory_bytes=int(row["memory_gb"] * GIB if reported is None else reported * MIB),
        memory_source=row.get("memory_source", NOMINAL),
        bandwidth=row["bandwidth_gb_s"] * 1e9,
        bf16_flops=row["dense_bf16_tflops"] * 1e12,
        fp8_flops=None if fp8 is None else fp8 * 1e12,
        sms=row.get("sms"),
        l2_bytes=None if l2_mb is None else l2_mb * MIB,
        source=row["source"],
        verified=row.get("verified", True),
    )


@cache
def _table() -> dict[str, dict[str, Any]]:  # Any: rows of a TOML file, checked by test_gpu.py
    import tomllib

    return tomllib.loads(files("kvsim").joinpath("gpus.toml").read_text(encoding="utf-8"))
