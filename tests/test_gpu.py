"""The GPU table: units, sources, and what a wrong name is answered with."""

from __future__ import annotations

import pytest

from kvsim.errors import InputError
from kvsim.gpu import GIB, MIB, find_gpu, gpu_names

RATES = [
    ("a100-40-sxm", 1555, 312, None, 108, 40),
    ("a100-80-sxm", 2039, 312, None, 108, 40),
    ("a100-80-pcie", 1935, 312, None, 108, 40),
    ("h100-pcie", 2000, 756, 1513, 114, 50),
    ("h100-sxm", 3350, 989, 1979, 132, 50),
    ("h200-sxm", 4800, 989, 1979, 132, 60),
    ("l40s", 864, 362, 733, 142, 96),
    ("a30", 933, 165, None, 56, 24),
    ("a40", 696, 149.7, None, 84, 6),
    ("b300", 7750, 2250, 4500, None, None),
    ("mi300x", 5300, 1307, 2615, 304, 256),
    ("rtx4090", 1008, 165, 330, 128, 72),
]
UNVERIFIED = {
    "a10g", "l4", "h100-nvl", "b200", "gb200", "a6000", "rtx3090", "rtx5090", "rtx-pro-6000",
}  # fmt: skip


@pytest.mark.parametrize(("name", "bandwidth", "bf16", "fp8", "sms", "l2"), RATES)
def test_rates_are_those_of_the_datasheet_in_base_units(
    name: str, bandwidth: int, bf16: float, fp8: float | None, sms: int | None, l2: int | None
) -> None:
    gpu = find_gpu(name)

    assert (gpu.bandwidth, gpu.bf16_flops) == (bandwidth * 1e9, bf16 * 1e12)
    assert gpu.fp8_flops == (None if fp8 is None else fp8 * 1e12)
    assert (gpu.sms, gpu.l2_bytes) == (sms, None if l2 is None else l2 * MIB)


@pytest.mark.parametrize(
    ("name", "gibibytes"), [("a100-80-sxm", 79.25), ("rtx3090", 23.58), ("h200-sxm", 140.40), ("l40s", 44.99)]
)
def test_memory_is_what_a_program_was_told(name: str, gibibytes: float) -> None:
    gpu = find_gpu(name)

    assert gpu.memory_reported
    assert gpu.memory_bytes / GIB == pytest.approx(gibibytes, abs=0.005)


def test_memory_without_a_report_is_the_datasheet_read_as_gib() -> None:
    gpu = find_gpu("mi300x")

    assert not gpu.memory_reported
    assert gpu.memory_bytes == 192 * GIB


def test_every_row_names_its_source_and_says_where_it_is_unverified() -> None:
    gpus = [find_gpu(name) for name in gpu_names()]

    assert all(gpu.source and gpu.memory_source for gpu in gpus)
    assert {gpu.name for gpu in gpus if not gpu.verified} == UNVERIFIED


def test_no_card_reports_more_than_a_tenth_off_its_box() -> None:
    for name in gpu_names():
        gpu = find_gpu(name)
        assert 0.9 < gpu.memory_bytes / (gpu.memory_gb * GIB) <= 1, name


def test_fp8_is_about_twice_bf16_so_that_no_sparse_figure_slips_in() -> None:
    for gpu in map(find_gpu, gpu_names()):
        assert gpu.fp8_flops is None or 1.9 < gpu.fp8_flops / gpu.bf16_flops < 2.1, gpu.name


def test_a_typo_is_answered_with_the_nearest_gpu() -> None:
    with pytest.raises(InputError, match=r"unknown GPU 'h100-smx' \(did you mean 'h100-sxm'"):
        find_gpu("h100-smx")
