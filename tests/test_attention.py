"""Attention backends on the CPU, and a numeric check that lets no wrong one through."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from kvsim.calibration.case import Case
from kvsim.errors import InputError

torch: Any = pytest.importorskip("torch")

from kvsim.calibration.attention_flashinfer import plan  # noqa: E402
from kvsim.calibration.attention_reference import attend_in_float64  # noqa: E402
from kvsim.calibration.backends import Chooser, backends, choose, preferred  # noqa: E402
from kvsim.calibration.kv_pool import KvPool, place  # noqa: E402
from kvsim.calibration.kv_store import KvStore  # noqa: E402
from kvsim.calibration.numeric_check import BackendRefusedError, numeric_error, small_cases  # noqa: E402

CPU = torch.device("cpu")
Attend = Callable[[KvPool, int], Any]


def case(**changes: Any) -> Case:  # Any: fields of a case
    fields = {"q": (1, 1), "kv": (40, 20), "heads": (4, 2, 16), "page": 8, "dtype": "fp32", **changes}
    return Case(**fields)


DECODE = case()
CHUNK = case(q=(12, 7), kv=(30, 40))
WHOLE = case(q=(12, 7), kv=(12, 7))
CASES = {
    "decode": DECODE,
    "chunk": CHUNK,
    "whole": WHOLE,
    "whole, equal": case(q=(9, 9), kv=(9, 9)),
    "mixed": case(q=(1, 9), kv=(30, 40)),
    "slots": case(layout="contiguous", page=64, q=(1, 9), kv=(30, 40)),
    "shared": case(layout="shared", prefix=16, q=(2, 9), kv=(30, 40)),
    "window": case(window=11, q=(1, 1), kv=(30, 40)),
    "windowed chunk": case(window=11, q=(7, 9), kv=(30, 40)),
    "no group": case(heads=(2, 2, 16)),
    "one KV head": case(heads=(6, 1, 16)),
    "int8": case(kv_dtype="int8"),
    "fp8": case(kv_dtype="fp8"),
    "pages of one": case(page=1),
}


class Planted:
    """A backend made of a function, which may be wrong."""

    name = "planted"

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def supports(self, case: Case, device: object) -> str | None:
        return None

    def prepare(self, pool: KvPool) -> Callable[[int], Any]:
        return lambda location: self._attend(pool, location)


def with_case(**changes: Any) -> Attend:
    return lambda pool, location: attend_in_float64(
        replace(pool, case=replace(pool.case, **changes)), location
    )


def top_left(pool: KvPool, location: int) -> Any:
    """Give query t the t + 1 oldest tokens: PyTorch's is_causal where q < kv."""
    outputs = []
    for index, count in enumerate(pool.case.q):
        key, value = (x.transpose(0, 1)[None] for x in pool.dense(location, index, torch.float64))
        query = pool.query[pool.rows(index)].double().transpose(0, 1)[None]
        attend = torch.nn.functional.scaled_dot_product_attention
        seen = torch.ones(count, key.shape[2], dtype=torch.bool).tril()
        outputs.append(attend(query, key, value, attn_mask=seen, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(outputs)


def interleaved_groups(pool: KvPool, location: int) -> Any:
    """Let head h read KV head h mod n instead of h // group."""
    heads, kv_heads, _ = pool.case.heads
    order = torch.arange(heads).view(-1, kv_heads).t().reshape(-1)
    output = attend_in_float64(replace(pool, query=pool.query[:, order]), location)
    return output[:, order.argsort()]


def other_location(pool: KvPool, location: int) -> Any:
    return attend_in_float64(pool, 0)


def page_read_twice(pool: KvPool, location: int) -> Any:
    lost = pool.tables.clone()
    lost[:, :, 1] = lost[:, :, 0]
    return attend_in_float64(replace(pool, tables=lost), location)


def last_row_unwritten(pool: KvPool, location: int) -> Any:
    output = attend_in_float64(pool, location)
    output[-1] = torch.nan
    return output


def a_row_short(pool: KvPool, location: int) -> Any:
    return attend_in_float64(pool, location)[:-1]


def stale(pool: KvPool, location: int, kept: dict[int, Any]) -> Any:
    """Compute a location once and return the same tensor ever after."""
    return kept.setdefault(location, attend_in_float64(pool, location))


def remembering() -> Attend:
    kept: dict[int, dict[int, Any]] = {}
    return lambda pool, location: stale(pool, location, kept.setdefault(id(pool), {}))


DEFECTS: dict[str, tuple[Case, Attend]] = {
    "causal mask top left": (CHUNK, top_left),
    "window ignored": (case(window=11), with_case(window=None)),
    "window one too long": (case(window=11), with_case(window=12)),
    "window one too short": (CASES["windowed chunk"], with_case(window=10)),
    "long window one too short": (case(window=1000, kv=(2000, 9)), with_case(window=999)),
    "groups interleaved": (DECODE, interleaved_groups),
    "one location for all": (DECODE, other_location),
    "a page read twice": (DECODE, page_read_twice),
    "a row not written": (WHOLE, last_row_unwritten),
    "a row missing": (WHOLE, a_row_short),
    "outputs remembered": (DECODE, remembering()),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("backend", ["flex", "sdpa-flash"])
@pytest.mark.parametrize("name", CASES)
def test_a_backend_agrees_with_float64(backend: str, name: str) -> None:
    chosen, wanted = backends()[backend], CASES[name]
    reason = chosen.supports(wanted, CPU)

    if reason is None:
        assert numeric_error(chosen, wanted, CPU) < 1e-5
    else:
        assert backend == "sdpa-flash"
        assert name not in ("whole", "whole, equal", "slots")


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_check_catches(defect: str) -> None:
    wanted, attend = DEFECTS[defect]

    with pytest.raises(
        BackendRefusedError, match=r"planted refused on attn_.*: relative error .*, allowed 1e-05"
    ):
        numeric_error(Planted(attend), wanted, CPU)


def test_the_check_passes_what_is_right() -> None:
    assert numeric_error(Planted(attend_in_float64), CHUNK, CPU) == 0


def test_a_crash_is_a_refusal_of_one_line() -> None:
    def crash(pool: KvPool, location: int) -> Any:
        raise RuntimeError("no kernel image\nis available")

    with pytest.raises(BackendRefusedError) as caught:
        numeric_error(Planted(crash), DECODE, CPU)

    assert str(caught.value).endswith("heads 4/2/16 paged page 8 fp32/fp32: RuntimeError: no kernel image")


@pytest.mark.parametrize("name", CASES)
def test_small_cases_keep_the_kind_and_are_uneven(name: str) -> None:
    wanted = CASES[name]
    for small in small_cases(wanted, CPU):
        assert (small.heads, small.window, small.dtype, small.kv_dtype) == (
            wanted.heads, wanted.window, wanted.dtype, wanted.kv_dtype,
        )  # fmt: skip
        assert len(set(small.kv)) > 2 or small.kv == small.q
        assert small.op == wanted.op


def test_auto_takes_the_first_that_supports_and_passes() -> None:
    assert preferred(WHOLE, CPU) == ("sdpa-flash", "reference")
    assert choose(WHOLE, CPU).backend.name == "sdpa-flash"
    assert choose(DECODE, CPU).backend.name == "reference"


def test_auto_passes_over_a_wrong_backend_and_says_so() -> None:
    known = {"sdpa-flash": Planted(top_left), "reference": backends()["reference"]}
    chosen = Chooser(CPU, known=known)(CHUNK)

    (refusal,) = chosen.refused
    assert chosen.backend.name == "reference"
    assert "planted refused on attn_prefill" in refusal


def test_a_kind_of_case_is_checked_once() -> None:
    calls: list[int] = []

    def counting(pool: KvPool, location: int) -> Any:
        calls.append(location)
        return attend_in_float64(pool, location)

    chooser = Chooser(CPU, "planted", known={"planted": Planted(counting)})
    chooser(DECODE)
    checked = len(calls)

    chooser(case(kv=(17, 300)))
    assert len(calls) == checked > 0
    chooser(case(window=5))
    assert len(calls) > checked


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdpa-flsh", r"backend must be auto or one of .*, got 'sdpa-flsh' \(did you mean 'sdpa-flash'"),
        (
            "sdpa-flash",
            "no backend for attn_decode .* \\(sdpa-flash: it cannot read a cached prefix out of pages\\)",
        ),
        ("triton", "no backend for attn_decode .* \\(triton: Triton runs on CUDA, not on cpu\\)"),
    ],
)
def test_a_backend_that_cannot_be_had_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose(DECODE, CPU, name)


class FlashInferDouble:
    """Takes flashinfer's arguments, and computes from them alone what its wrapper would."""

    def __init__(self, workspace: object, kv_layout: str, use_tensor_cores: bool = False) -> None:
        assert kv_layout == "NHD"

    def plan(self, *arguments: Any, window_left: int, causal: bool = False, **dtypes: Any) -> None:
        *starts, self.heads, self.kv_heads, self.size, self.page = arguments
        *self.q_starts, self.starts, self.pages, self.last = (each.tolist() for each in starts)
        self.window = None if window_left < 0 else window_left + 1
        assert causal == bool(self.q_starts)

    def run(self, query: Any, pool: tuple[Any, Any], out: Any) -> None:
        counts = [stop - start for start, stop in pairwise(self.starts)]
        kv = tuple((count - 1) * self.page + last for count, last in zip(counts, self.last, strict=True))
        q_starts = self.q_starts[0] if self.q_starts else list(range(len(kv) + 1))
        q = tuple(stop - start for start, stop in pairwise(q_starts))
        tables = torch.zeros(1, len(kv), max(counts), dtype=torch.int32)
        for index, start in enumerate(self.starts[:-1]):
            tables[0, index, : counts[index]] = torch.tensor(self.pages[start : start + counts[index]])
        heads = (self.heads, self.kv_heads, self.size)
        asked = case(q=q, kv=kv, heads=heads, page=self.page, window=self.window)
        made = KvPool(
            case=asked, query=query, key=pool[0], value=pool[1], scale=1.0, tables=tables,
            q_start=torch.tensor(q_starts), kv_len=torch.tensor(kv),
        )  # fmt: skip
        out.copy_(attend_in_float64(made, 0))


@pytest.mark.parametrize(
    "name", ["decode", "chunk", "mixed", "window", "windowed chunk", "shared", "pages of one"]
)
def test_flashinfer_is_told_the_whole_case(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    double = types.SimpleNamespace(
        BatchDecodeWithPagedKVCacheWrapper=FlashInferDouble,
        BatchPrefillWithPagedKVCacheWrapper=FlashInferDouble,
    )
    monkeypatch.setitem(sys.modules, "flashinfer", double)
    pool = place(CASES[name], KvStore.holding(CASES[name], 2, device=CPU, seed=0), 2, seed=0)
    out = torch.empty_like(pool.query)

    plan(pool, 1, torch.zeros(1)).run(pool.query, (pool.key, pool.value), out=out)

    assert torch.allclose(out.double(), attend_in_float64(pool, 1), atol=1e-6)


def test_nothing_needs_torch_triton_or_simpy_to_be_imported() -> None:
    modules = "case kv_store kv_pool backends numeric_check ops small_kernels attention_triton"
    script = (
        "import sys, importlib\nfor name in ('torch', 'triton', 'simpy', 'flashinfer'):\n    sys.modules[name] = None\n"
        f"for name in {modules.split()!r}:\n    importlib.import_module(f'kvsim.calibration.{{name}}')"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
