"""Clocks, temperature and power beside a point: who is asked, and that what is missing is missing."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvsim.calibration.readings import Reading, Readings, sensors_of

torch = pytest.importorskip("torch")
CUDA = SimpleNamespace(type="cuda")


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend there is a card of this UUID, and nobody who tells of it."""
    found = SimpleNamespace(uuid="1234-abcd")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "")


class Nvml:
    """nvidia-ml-py with the answers of one card."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
            "clocks": {1: 1980, 2: 2619},
            "celsius": 41,
            "milliwatts": 312_500,
        } | answers
        self.asked: list[str] = []

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's names
        self.asked.append("init")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetClockInfo(self, handle: str, which: int) -> int:  # noqa: N802
        assert handle == "GPU-1234-abcd"
        return int(self.answers["clocks"][which])

    def nvmlDeviceGetTemperature(self, handle: str, which: int) -> int:  # noqa: N802
        return int(self.answers["celsius"])

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        if self.answers["milliwatts"] is None:
            raise RuntimeError("Not Supported")
        return int(self.answers["milliwatts"])

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:  # noqa: N802
        return 700_000

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"

    def nvmlDeviceGetEccMode(self, handle: str) -> list[int]:  # noqa: N802
        return [1, 1]

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:  # noqa: N802
        raise RuntimeError("Not Supported")


def with_nvml(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(**answers))


def with_smi(monkeypatch: pytest.MonkeyPatch, folder: Path, readings: str, facts: str) -> None:
    """Put an nvidia-smi on the path that counts how often it is asked for readings."""
    script = folder / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\n"
        '[ "$1" = "--id=GPU-1234-abcd" ] || exit 6\n'
        f'case "$2" in *driver*) echo "{facts}";; *) echo x >> "{folder}/asked"; echo "{readings}";; esac\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_nvml_is_asked_first_and_in_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nvml(monkeypatch)
    sensors = sensors_of(CUDA)  # type: ignore[arg-type]

    assert sensors.name == "nvml"
    assert sensors.read() == Reading(1980.0, 2619.0, 41.0, 312.5)
    assert sensors.facts == {"driver": "580.1", "power_limit_w": 700.0, "ecc": True}


def test_what_nvml_does_not_know_is_none_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nvml(monkeypatch, clocks={1: 0}, milliwatts=None)

    assert sensors_of(CUDA).read() == Reading(temperature_c=41.0)  # type: ignore[arg-type]


def test_torch_is_asked_where_nvml_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("clock_rate", 1410), ("temperature", 30), ("power_draw", 90_000)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    sensors = sensors_of(CUDA)  # type: ignore[arg-type]

    assert sensors.name == "torch"
    assert sensors.read() == Reading(1410.0, None, 30.0, 90.0)


def test_nvidia_smi_is_asked_last_and_not_too_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_smi(monkeypatch, tmp_path, "1980, 2619, 45, [N/A]", "580.95.05, 700.00, Enabled, [N/A]")
    sensors = sensors_of(CUDA)  # type: ignore[arg-type]

    assert sensors.name == "nvidia-smi"
    assert [sensors.read() for _ in range(5)] == [Reading(1980.0, 2619.0, 45.0, None)] * 5
    assert (tmp_path / "asked").read_text().count("x") == 1
    assert sensors.facts == {"driver": "580.95.05", "power_limit_w": 700.0, "ecc": True}


@pytest.mark.parametrize("readings", ["", "No devices were found", "1980, 2619"])
def test_an_answer_of_another_kind_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: str
) -> None:
    with_smi(monkeypatch, tmp_path, readings, "")

    assert sensors_of(CUDA).name is None  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_where_nobody_answers_nothing_is_read(kind: str) -> None:
    sensors = sensors_of(SimpleNamespace(type=kind))  # type: ignore[arg-type]

    assert (sensors.name, sensors.read(), sensors.facts) == (None, Reading(), {})


def test_a_reading_counts_when_it_is_there_before_and_after() -> None:
    found = Readings.of(Reading(1980, None, 40, 300), Reading(1950, 2619, None, 310))

    assert found == Readings(sm_mhz=(1980, 1950), power_w=(300, 310))
