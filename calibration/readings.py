"""What the card says of itself beside a point: clocks, temperature, power. Nothing is ever set.

NVML is asked where its Python package (nvidia-ml-py) is installed, else torch, which finds AMD's, else nvidia-smi. What
none of them knows is None, never 0.
"""

from __future__ import annotations

import importlib
import subprocess
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

SMI_AGE = 2.0
"""Seconds for which an answer of nvidia-smi is used again: asking takes as long as timing a point."""
SMI_TIMEOUT = 10.0
SMI_READINGS = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
SMI_FACTS = {
    "driver": "driver_version",
    "power_limit_w": "power.limit",
    "ecc": "ecc.mode.current",
    "mig": "mig.mode.current",
}


class Reading(NamedTuple):
    """One look at the card."""

    sm_mhz: float | None = None
    memory_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None


Pair = tuple[float, float]


class Readings(NamedTuple):
    """Before and after a point; None where one of the two is missing."""

    sm_mhz: Pair | None = None
    memory_mhz: Pair | None = None
    temperature_c: Pair | None = None
    power_w: Pair | None = None

    @classmethod
    def of(cls, before: Reading, after: Reading) -> Readings:
        """Pair two looks."""
        pairs = zip(before, after, strict=True)
        return cls(*(None if first is None or last is None else (first, last) for first, last in pairs))


Read = Callable[[], Reading]


class Sensors(NamedTuple):
    """Who is asked, and what does not change while a calibration runs."""

    name: str | None
    """nvml, torch or nvidia-smi; None where nobody answers."""
    read: Read
    facts: dict[str, object]
    """Driver, power limit, ECC and MIG as found, as far as they are told."""


def sensors_of(device: torch.device) -> Sensors:
    """Return the first that tells anything of a CUDA device; on other devices, nobody."""
    if device.type == "cuda":
        for make in (_nvml, _torch, _smi):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = make(device)
            except Exception:  # whatever a driver says, a calibration can do without
                continue
            if any(value is not None for value in found.read()):
                return found
    return Sensors(None, Reading, {})


def _nvml(device: torch.device) -> Sensors:
    pynvml: Any = importlib.import_module("pynvml")  # Any: optional, and has no types

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(device))

    def read() -> Reading:
        milliwatts = _known(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
        return Reading(
            _known(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            _known(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
            _known(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
            None if milliwatts is None else milliwatts / 1000,
        )

    limit = _known(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    facts = {
        "driver": _told(pynvml.nvmlSystemGetDriverVersion),
        "power_limit_w": None if limit is None else limit / 1000,
        "ecc": _told(lambda: bool(pynvml.nvmlDeviceGetEccMode(handle)[0])),
        "mig": _told(lambda: bool(pynvml.nvmlDeviceGetMigMode(handle)[0])),
    }
    return Sensors("nvml", read, _without_none(facts))


def _torch(device: torch.device) -> Sensors:
    import torch

    def read() -> Reading:
        milliwatts = _known(lambda: torch.cuda.power_draw(device))
        return Reading(
            sm_mhz=_known(lambda: torch.cuda.clock_rate(device)),
            temperature_c=_known(lambda: torch.cuda.temperature(device)),
            power_w=None if milliwatts is None else milliwatts / 1000,
        )

    return Sensors("torch", read, {})


def _smi(device: torch.device) -> Sensors:
    uuid, last, taken = _uuid(device), Reading(), -SMI_AGE

    def read() -> Reading:
        nonlocal last, taken
        if time.monotonic() - taken >= SMI_AGE:
            cells = _told(lambda: _asked(uuid, SMI_READINGS)) or ()
            last, taken = Reading(*(_known(partial(float, cell)) for cell in cells)), time.monotonic()
        return last

    words = dict(zip(SMI_FACTS, _asked(uuid, tuple(SMI_FACTS.values())), strict=True))
    return Sensors("nvidia-smi", read, _without_none({name: _fact(word) for name, word in words.items()}))


def _asked(uuid: str, fields: tuple[str, ...]) -> list[str]:
    """Return the cells of one line of nvidia-smi; all empty when it gives another."""
    asked = f"--query-gpu={','.join(fields)}"
    command = ["nvidia-smi", f"--id={uuid}", asked, "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT, check=True)
    cells = [cell.strip() for cell in done.stdout.strip().split(",")]
    return cells if len(cells) == len(fields) else [""] * len(fields)


def _fact(word: str) -> object:
    """Read `Enabled`, `Disabled`, a number or a version; what is in brackets is not known."""
    if not word or word.startswith("["):
        return None
    if word in ("Enabled", "Disabled"):
        return word == "Enabled"
    number = _told(partial(float, word))
    return word if number is None else number


def _uuid(device: torch.device) -> str:
    import torch

    text = str(torch.cuda.get_device_properties(device).uuid)
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


def _known(ask: Callable[[], Any]) -> float | None:  # Any: what drivers answer
    """Return a number above 0, or None: sensors that are not there say 0, or fail."""
    value = _told(ask)
    return float(value) if isinstance(value, int | float) and 0 < value < float("inf") else None


def _told(ask: Callable[[], Any]) -> Any:  # Any: as above
    try:
        return ask()
    except Exception:  # a sensor that fails is one that is not there
        return None


def _without_none(facts: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in facts.items() if value is not None}
