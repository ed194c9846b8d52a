"""Where AIConfigurator keeps a card's tables, and what it assumes of the card."""

from __future__ import annotations

import re
from pathlib import Path

from kvsim.calibration.elementwise import Assumed
from kvsim.calibration.peak_gate import Peak, peak_of
from kvsim.calibration.table_file import SUFFIXES, find_tables, optional_columns
from kvsim.errors import InputError
from kvsim.gpu import find_gpu

NAME = "aiconfigurator"
NS_PER_MS = 1e6
SOURCE = {
    "format": NAME,
    "origin": "NVIDIA AIConfigurator, github.com/ai-dynamo/aiconfigurator",
    "licence": "Apache-2.0, © NVIDIA Corporation & Affiliates",
    "timing": "CUDA graph of the call, mean of 6 replays, L2 not flushed",
}
SYSTEMS = {
    "h100_sxm": "h100-sxm",
    "h100_pcie": "h100-pcie",
    "h200_sxm": "h200-sxm",
    "a100_sxm": "a100-80-sxm",
    "a100_pcie": "a100-80-pcie",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "l4": "l4",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
"""The tables' name of a card, and ours."""


class System:
    """One card's folder: the newest table of each kind, and what was read so far."""

    def __init__(self, folder: Path, gpu: str, backend: str) -> None:
        """Take the folder, our name of the card, and whose kernels were timed."""
        self.folder, self.gpu, self.backend = folder, gpu, backend
        self.read: list[Path] = []
        self.peak: Peak = peak_of(find_gpu(gpu))
        facts = _facts(folder)
        self.assumed = Assumed(
            bandwidth=self.peak.bandwidth * facts.get("mem_bw_empirical_scaling_factor", 0.8),
            seconds=facts.get("mem_empirical_constant_latency", 3e-6),
        )

    def table(self, stem: str) -> Path:
        """Return the backend's newest table of a kind.

        It is called `<backend>-<version>_<stem>`, or `<stem>` in `<backend>/<version>`.
        """
        found = {path: _origin(path, stem) for path in find_tables(self.folder, stem)}
        if not found:
            raise InputError(f"{self.folder}: no table {stem} ({', '.join(SUFFIXES)}) in it")
        mine = [path for path, (backend, _) in found.items() if backend == self.backend]
        if not mine:
            there = ", ".join(sorted({backend for backend, _ in found.values()}))
            raise InputError(f"{self.folder}: no table {stem} of {self.backend}; there are those of {there}")
        newest = max(mine, key=lambda path: (_version(found[path][1]), str(path)))
        if newest not in self.read:
            self.read.append(newest)
        return newest

    def time_column(self, path: Path) -> str:
        """Return what the table calls its milliseconds."""
        return next(iter(optional_columns(path, ["latency_ms", "latency"])), "latency_ms")


def open_system(folder: Path, gpu: str | None, backend: str) -> System:
    """Find the card's folder: the one given, or the one in it named after the GPU."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if gpu is None:
        if folder.name not in SYSTEMS:
            raise InputError(f"{folder}: which card is this? Name it with --gpu, or give one of its folders")
        return System(folder, SYSTEMS[folder.name], backend)
    find_gpu(gpu)
    names = [name for name, ours in SYSTEMS.items() if ours == gpu]
    places = [place / name for name in names for place in (folder, folder / "data")]
    return System(next((place for place in places if place.is_dir()), folder), gpu, backend)


def _origin(path: Path, stem: str) -> tuple[str, str]:
    flat = re.match(rf"(\w+)-(.+)_{stem}\.", path.name)
    if flat:
        return flat[1], flat[2]
    return path.parent.parent.name, path.parent.name


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _facts(folder: Path) -> dict[str, float]:
    """Read `key: number` lines of system.yaml; the file is optional."""
    for path in (folder / "system.yaml", folder.parent.parent / f"{folder.name}.yaml"):
        if path.is_file():
            lines = re.findall(
                r"^\s*(\w+):\s*([\d.eE+-]+)\s*(?:#.*)?$", path.read_text("utf-8"), re.MULTILINE
            )
            return {key: float(value) for key, value in lines}
    return {}
