"""Which card a driver's name means, and torch's threads on the CPU."""

from __future__ import annotations

import pytest

from kvsim.calibration.measured_device import GPUS, kvsim_name, one_thread
from kvsim.gpu import gpu_names

torch = pytest.importorskip("torch")

CARDS = [
    ("NVIDIA H200", "h200-sxm"),
    ("NVIDIA H200 NVL", "h200-nvl"),
    ("NVIDIA H100 80GB HBM3", "h100-sxm"),
    ("NVIDIA A100-SXM4-80GB", "a100-80-sxm"),
    ("NVIDIA L4", "l4"),
    ("NVIDIA L40", None),
    ("NVIDIA L40S", "l40s"),
    ("NVIDIA A30", "a30"),
    ("NVIDIA RTX A4000", None),
    ("NVIDIA GB200", "gb200"),
    ("NVIDIA GB300", None),
    ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
]


@pytest.mark.parametrize(("driver", "ours"), CARDS)
def test_a_card_is_told_by_whole_words_of_its_name(driver: str, ours: str | None) -> None:
    assert kvsim_name(driver) == ours


def test_every_card_that_is_told_is_in_the_table() -> None:
    assert {ours for _, ours in GPUS} <= set(gpu_names())


def test_one_thread_is_given_back_whatever_happens() -> None:
    def fail() -> None:
        with one_thread(torch.device("cpu")):
            assert torch.get_num_threads() == 1
            raise RuntimeError("stop")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="stop"):
            fail()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_threads_of_the_cpu_are_left_alone_when_a_gpu_is_timed() -> None:
    before = torch.get_num_threads()

    with one_thread(torch.device("cuda", 0)):
        assert torch.get_num_threads() == before
