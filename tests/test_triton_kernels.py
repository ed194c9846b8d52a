"""The Triton kernels: right in the interpreter, and compiled for five architectures without a GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvsim.calibration.attention_triton import MOST_SPLITS, PINNED_OPTIONS, split_count, tiling_of, variant_of
from kvsim.calibration.case import Case

pytest.importorskip("torch")
triton: Any = pytest.importorskip("triton")  # Any: triton has no types

ARCHITECTURES = {80: 163, 89: 99, 90: 227, 100: 227, 120: 99}
"""Compute capability times ten, and KiB of shared memory that a block may have."""
POINTERS = {
    "query": "*bf16", "out": "*bf16", "key": "*bf16", "value": "*bf16",
    "tables": "*i32", "q_start": "*i32", "kv_len": "*i32",
    "part_out": "*fp32", "part_max": "*fp32", "part_sum": "*fp32",
}  # fmt: skip
NUMBERS = {"score_scale": "fp32", "value_scale": "fp32"}
DIVISIBLE = {"query_stride", "page_stride", "token_stride", "head_stride"}
DECODE = {"q": (1, 1), "kv": (4096, 100)}
VARIANTS = {
    "decode": (True, Case(**DECODE, heads=(32, 8, 128))),
    "slots": (True, Case(**DECODE, heads=(64, 8, 128), page=8192, layout="contiguous")),
    "prefill": (False, Case(q=(2048,), kv=(4096,), heads=(32, 8, 128))),
}


def interpreted(group: str) -> dict[str, float]:
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("triton_cases.py")), group]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    errors: dict[str, float] = json.loads(done.stdout)
    return errors


def compiled(function: Any, constants: dict[str, Any], architecture: int) -> Any:  # Any: triton has no types
    """Compile as a launch would: constants apart from options, pointers and strides divisible by 16."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = function.arg_names
    typed = POINTERS | NUMBERS
    signature = {name: "constexpr" if name in constants else typed.get(name, "i32") for name in names}
    aligned = [index for index, name in enumerate(names) if name in POINTERS or name in DIVISIBLE]
    source = ASTSource(
        function,
        signature,
        {(names.index(name),): value for name, value in constants.items() if name in names},
        {(index,): [["tt.divisibility", 16]] for index in aligned},
    )
    options = {name: value for name, value in constants.items() if name not in names}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def stack_bytes(kernel: Any, folder: Path) -> int:
    """Return what cuobjdump calls the stack of a thread: spilled registers, here."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run([tool, "--dump-resource-usage", binary], capture_output=True, text=True, check=True)
    (stack,) = re.findall(r"STACK:(\d+)", done.stdout)
    return int(stack)


def test_attention_is_right_in_the_interpreter() -> None:
    errors = interpreted("attention")

    assert len(errors) == 14
    assert {name: error for name, error in errors.items() if not error < 1e-5} == {}


def test_small_kernels_equal_torchs_in_the_interpreter() -> None:
    errors = interpreted("ops")

    assert {name: error for name, error in errors.items() if not error < 1e-5} == {}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_compiles_without_spills(
    architecture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "TRITON_CACHE_DIR", str(tmp_path))
    from kvsim.calibration.triton_kernels import attend

    for is_split, case in VARIANTS.values():
        tiling = tiling_of(case, divmod(architecture, 10))
        kernel = compiled(attend, variant_of(case, tiling, is_split=is_split), architecture)

        assert stack_bytes(kernel, tmp_path) == 0
        assert kernel.metadata.shared <= ARCHITECTURES[architecture] * 1024


def test_joining_splits_compiles_without_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TRITON_CACHE_DIR", str(tmp_path))
    from kvsim.calibration.triton_kernels import combine

    constants = {"SIZE": 128, "WIDTH": 128, "MOST_SPLITS": MOST_SPLITS, **PINNED_OPTIONS}

    assert stack_bytes(compiled(combine, constants, 90), tmp_path) == 0


@pytest.mark.parametrize("layout", ["paged", "contiguous"])
def test_every_layout_loads_as_many_tiles_ahead(layout: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(os.environ, "TRITON_CACHE_DIR", str(tmp_path))
    from kvsim.calibration.triton_kernels import attend

    case = Case(**DECODE, heads=(32, 8, 128), page=8192 if layout == "contiguous" else 16, layout=layout)
    kernel = compiled(attend, variant_of(case, tiling_of(case, (9, 0)), is_split=True), 90)

    buffers = re.findall(
        r"local_alloc : \(\) -> !ttg.memdesc<(\d+)x(?:64x128|128x64)xbf16", kernel.asm["ttgir"]
    )
    assert buffers == ["2", "2"]


def test_splits_fill_two_blocks_a_multiprocessor() -> None:
    assert split_count(1, 1, 8, 132) == 32
    assert split_count(1, 4, 8, 132) == 8
    assert split_count(1, 33, 8, 132) == 1
    assert split_count(64, 512, 8, 132) == 1
