"""Attention kernels behind one interface, and the choice of one that is right for a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kvsim.calibration.attention_flashinfer import FlashInferAttention
from kvsim.calibration.attention_flex import FlexAttention
from kvsim.calibration.attention_reference import ReferenceAttention
from kvsim.calibration.attention_sdpa import SdpaAttention
from kvsim.calibration.attention_triton import TritonAttention
from kvsim.calibration.case import Case
from kvsim.calibration.kv_pool import KvPool
from kvsim.calibration.numeric_check import BackendRefusedError, numeric_error
from kvsim.errors import InputError, nearest

if TYPE_CHECKING:
    import torch


class AttentionBackend(Protocol):
    """A kernel, or several, that computes causal attention over a pool."""

    @property
    def name(self) -> str:
        """Name on the command line and in profiles."""

    def supports(self, case: Case, device: torch.device) -> str | None:
        """Return None, or in half a sentence why not. Looks at nothing but its arguments and what is installed."""

    def prepare(self, pool: KvPool) -> Callable[[int], torch.Tensor | Sequence[torch.Tensor]]:
        """Allocate and plan everything, and return a call to time: `call(i)` attends over location i.

        It returns [Σ q, query heads, head size], or that cut into runs of rows in the order of the sequences; the
        next call may overwrite it. It neither waits for the device nor reads from it, so it can be captured in a CUDA
        graph once it has been called for one location; calls go to the current stream.
        """


def backends() -> dict[str, AttentionBackend]:
    """Return one of each, by name."""
    each: list[AttentionBackend] = [
        TritonAttention(),
        SdpaAttention("cudnn"),
        SdpaAttention("flash"),
        FlashInferAttention(),
        FlexAttention(),
        ReferenceAttention(),
    ]
    return {backend.name: backend for backend in each}


def preferred(case: Case, device: torch.device) -> tuple[str, ...]:
    """Return the names that `auto` tries, best first.

    On CUDA whole prompts go to torch's kernels (cuDNN on compute capability 9, flash elsewhere), everything else to
    ours; float64 is never timed there. On the CPU dense prompts go to torch, the rest to the reference.
    """
    if device.type != "cuda":
        return "sdpa-flash", "reference"
    if case.q != case.kv or case.op == "attn_decode":
        return "triton", "flashinfer"
    import torch

    hopper = torch.cuda.get_device_capability(device)[0] == 9
    return (*(("sdpa-cudnn", "sdpa-flash") if hopper else ("sdpa-flash",)), "triton", "flashinfer")


class Chosen(NamedTuple):
    """A backend that passed, and what was passed over."""

    backend: AttentionBackend
    error: float
    """Largest relative error of its numeric check."""
    refused: tuple[str, ...]
    """One line for each that was tried before it and failed its check; unsupported ones are not listed."""


class Chooser:
    """Choose backends for many cases on one device, checking each kind of case once.

    choose = Chooser(torch.device("cuda"))
    backend, error, refused = choose(case)
    call = backend.prepare(pool)
    """

    def __init__(
        self,
        device: torch.device,
        name: str = "auto",
        *,
        seed: int = 0,
        known: dict[str, AttentionBackend] | None = None,
    ) -> None:
        """Use `name` for all cases, or the best for each; `known` replaces the built-in backends."""
        self._device = device
        self._known = backends() if known is None else known
        if name not in ("auto", *self._known):
            raise InputError(
                f"backend must be auto or one of {', '.join(self._known)}, got {name!r}"
                f"{nearest(name, ['auto', *self._known])}"
            )
        self._name = name
        self._seed = seed
        self._checked: dict[tuple[object, ...], float | str] = {}

    def __call__(self, case: Case) -> Chosen:
        """Return the first backend that supports the case and passes its numeric check.

        A backend asked for by name that does not support the case is an InputError, one that fails its check a
        BackendRefusedError; with `auto` the latter means that all failed.
        """
        refused: list[str] = []
        unsupported: list[str] = []
        for name in preferred(case, self._device) if self._name == "auto" else (self._name,):
            backend = self._known.get(name)
            reason = "is not known" if backend is None else backend.supports(case, self._device)
            if backend is None or reason is not None:
                unsupported.append(f"{name}: {reason}")
                continue
            verdict = self._verdict(backend, case)
            if not isinstance(verdict, str):
                return Chosen(backend, verdict, tuple(refused))
            refused.append(verdict)
        if refused:
            raise BackendRefusedError("; ".join(refused))
        raise InputError(f"no backend for {case.label} ({'; '.join(unsupported)})")

    def _verdict(self, backend: AttentionBackend, case: Case) -> float | str:
        rows = min(128, max(case.q) * case.group)
        kind = (
            case.op,
            case.q == case.kv,
            len(set(case.q)) == 1,
            rows.bit_length(),
            case.heads,
            case.layout,
            case.window,
        )
        page = None if case.layout == "contiguous" else case.page
        key = (backend.name, *kind, page, case.dtype, case.kv_dtype)
        if key not in self._checked:
            try:
                self._checked[key] = numeric_error(backend, case, self._device, self._seed)
            except BackendRefusedError as refusal:
                self._checked[key] = str(refusal)
        return self._checked[key]


def choose(case: Case, device: torch.device, name: str = "auto") -> Chosen:
    """Choose a backend for one case; see `Chooser`, which remembers its checks."""
    return Chooser(device, name)(case)


def profiled_kernels(call: Callable[[], object], device: torch.device) -> tuple[str, ...]:
    """Return the names of the CUDA kernels that torch's profiler sees in a call, for the record; none on the CPU."""
    if device.type != "cuda":
        return ()
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize(device)
    return tuple(event.key for event in profiler.key_averages() if str(event.device_type).endswith("CUDA"))
