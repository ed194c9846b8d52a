"""The device that is calibrated: which one `--device` means, what it is, and what it can do at best."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

from kvsim.calibration.kv_store import torch_dtype
from kvsim.calibration.peak_gate import Peak, peak_of
from kvsim.calibration.small_kernels import nothing
from kvsim.calibration.timer import Timer
from kvsim.errors import InputError
from kvsim.gpu import find_gpu

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    Device: TypeAlias = torch.device

GPUS = (
    ("H200 NVL", "h200-nvl"), ("H200", "h200-sxm"),
    ("H100 PCIe", "h100-pcie"), ("H100 NVL", "h100-nvl"), ("H100 80GB HBM3", "h100-sxm"),
    ("A100-SXM4-80GB", "a100-80-sxm"), ("A100-SXM4-40GB", "a100-40-sxm"), ("A100 80GB PCIe", "a100-80-pcie"),
    ("GB200", "gb200"), ("B200", "b200"), ("B300", "b300"), ("L40S", "l40s"), ("L4", "l4"), ("A10G", "a10g"),
    ("A30", "a30"), ("A40", "a40"),
    ("RTX A6000", "a6000"), ("RTX 3090", "rtx3090"), ("RTX 4090", "rtx4090"), ("RTX 5090", "rtx5090"),
    ("RTX PRO 6000", "rtx-pro-6000"),
)  # fmt: skip
"""What drivers call cards, and what kvsim does; the first whose words occur in the name counts."""
COPY_HEADROOM = 1.2
"""The datasheet's bandwidth over what a copy reaches, at most; for cards that kvsim does not know."""
PRODUCT_HEADROOM = 1.3


class NoDeviceError(RuntimeError):
    """There is no such device; one line says what to do."""


def pick_device(name: str) -> torch.device:
    """Return the device that a flag names; `auto` is CUDA or nothing, never the CPU in silence."""
    try:
        import torch
    except ImportError as error:
        raise InputError("calibrate run needs torch: pip install 'kvsim[calibrate]'") from error
    if name == "cpu":
        return torch.device("cpu")
    if name not in ("auto", "cuda") and not (name.startswith("cuda:") and name[5:].isdecimal()):
        raise InputError(f"device must be auto, cuda, cuda:N or cpu, got {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        hint = "; --device cpu tries the machinery out, on a profile that represents no GPU"
        raise NoDeviceError(f"no CUDA device found{hint if name == 'auto' else ''}")
    index = int(name[5:]) if name.startswith("cuda:") else torch.cuda.current_device()
    if index >= count:
        raise NoDeviceError(f"no device {name}: there are {count} CUDA devices, counted from 0")
    return torch.device("cuda", index)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Let torch use one thread of the CPU meanwhile: threads that wait for each other are not a kernel's time."""
    import torch

    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def kvsim_name(driver_name: str) -> str | None:
    """Return kvsim's name of a card that a driver calls so, or None."""
    return next((gpu for words, gpu in GPUS if re.search(rf"\b{words}\b", driver_name)), None)


def device_record(device: torch.device) -> dict[str, object]:
    """Return what the profile says of the device."""
    import torch

    if device.type != "cuda":
        name = platform.processor() or platform.machine() or "cpu"
        return {"type": "cpu", "name": name, "threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(device)
    record: dict[str, object] = {
        "type": "cuda", "name": found.name, "cc": [found.major, found.minor], "sms": found.multi_processor_count,
        "l2": l2_bytes(device), "memory": found.total_memory, "cuda": torch.version.cuda,
    }  # fmt: skip
    gpu = kvsim_name(found.name)
    return record if gpu is None else record | {"gpu": gpu}


def software_record() -> dict[str, object]:
    """Return versions of what the kernels were made with."""
    import numpy
    import torch

    record: dict[str, object] = {
        "python": platform.python_version(), "torch": str(torch.__version__), "numpy": numpy.__version__,
        "os": f"{platform.system()} {platform.release()}",
    }  # fmt: skip
    if torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        record["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    try:
        import triton
    except ImportError:
        return record
    return record | {"triton": triton.__version__}


def l2_bytes(device: torch.device) -> int:
    """Return the size of the last-level cache; 0 on the CPU, where nothing is kept cold."""
    import torch

    if device.type != "cuda":
        return 0
    return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20))


def free_bytes(device: torch.device) -> int:
    """Return the device's free memory; 0 where it is not asked."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0


def measure_ceilings(
    device: torch.device, timer: Timer, dtype: str, smoke: bool = False
) -> dict[str, object]:
    """Measure what bounds every kernel: launches, and copies (read + written) and products in GB/s and TFLOP/s."""

    size, rows = (1 << 24, 256) if smoke else (4 << 30, 8192)
    empty = nothing(device)
    return {
        "launch_eager_us": round(_median(timer, empty, calls=100, eager=True) * 1e6, 3),
        "graph_node_us": round(_median(timer, empty, calls=100) * 1e6, 3),
        "copy_gbs": round(2 * size / _copy_seconds(device, timer, size) / 1e9, 1),
        "gemm_tflops": round(2 * rows**3 / _product_seconds(device, timer, dtype, rows) / 1e12, 3),
    }


def _copy_seconds(device: torch.device, timer: Timer, size: int) -> float:
    import torch

    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _median(timer, lambda _: target.copy_(source))


def _product_seconds(device: torch.device, timer: Timer, dtype: str, rows: int) -> float:
    import torch

    a, b, out = (torch.randn(rows, rows, device=device).to(torch_dtype(dtype)) for _ in range(3))
    return _median(timer, lambda _: torch.mm(a, b, out=out))


def known_peak(device: torch.device, ceilings: dict[str, object]) -> Peak | None:
    """Return the datasheet's peak, else one above what was measured; None on the CPU."""
    import torch

    if device.type != "cuda":
        return None
    gpu = kvsim_name(torch.cuda.get_device_name(device))
    if gpu is not None:
        return peak_of(find_gpu(gpu))
    copy, product = (float(str(ceilings[name])) for name in ("copy_gbs", "gemm_tflops"))
    return Peak(COPY_HEADROOM * copy * 1e9, PRODUCT_HEADROOM * product * 1e12, l2_bytes(device))


def _median(timer: Timer, call: Callable[[int], object], calls: int = 1, eager: bool = False) -> float:
    return float(median(timer.measure(call, calls, 5, eager).ns)) * 1e-9


def is_hopper(device: Device) -> bool:
    """Tell whether the device is a Hopper card, on which cuDNN's attention is torch's fastest."""
    import torch

    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
