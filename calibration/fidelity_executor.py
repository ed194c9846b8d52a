"""Makes scheduled steps executable on a device: engines of several layouts over one set of weights and one store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from kvsim.calibration.backends import Chooser, Chosen
from kvsim.calibration.case import Case
from kvsim.calibration.fidelity_check import check_engine
from kvsim.calibration.fidelity_steps import ScheduledStep
from kvsim.calibration.mini_engine import MiniEngine
from kvsim.calibration.mini_engine_attention import Choose
from kvsim.errors import InputError

if TYPE_CHECKING:
    import torch

WARM_UPS = 2
"""Executions before a capture: kernels are compiled and handles made then."""


def chooser(device: torch.device, name: str, seed: int) -> Choose:
    """Return what picks kernels as a calibration does: the one of this name where it takes the case, else the best."""
    best = Chooser(device, seed=seed)
    if name == "auto":
        return best
    asked = Chooser(device, name, seed=seed)

    def choose(case: Case) -> Chosen:
        try:
            return asked(case)
        except InputError:
            return best(case)

    return choose


class Executable(NamedTuple):
    """A step that only lacks its times."""

    call: Callable[[int], object]
    """Executes it once, whatever the argument."""
    mode: Literal["graph", "eager"]
    rows: int
    """Tokens that products compute, padding included."""
    backends: tuple[str, ...]
    """Attention kernels."""


class Executor(Protocol):
    """A device with a mini engine on it, real or made up."""

    def check(self, layout: str) -> float:
        """Return how far its numbers are off in this layout; raises BackendRefusedError when too far."""

    def prepare(self, layout: str, step: ScheduledStep) -> Executable:
        """Allocate and plan a step."""


class EngineExecutor:
    """Mini engines by layout; steps that an engine would replay as a CUDA graph are captured as one."""

    def __init__(self, engines: Mapping[str, MiniEngine], device: torch.device, seed: int) -> None:
        """Draw token ids from the seed: steps are executed in any order, so none has an earlier one's output."""
        self._engines, self._device, self._seed = engines, device, seed
        self.notes: dict[str, int] = {}
        """What the result must say, and how often it happened."""

    def check(self, layout: str) -> float:
        """Compare the engine's logits with a float64 reference on a small script of steps."""
        return check_engine(self._engines[layout], layout, self._seed)

    def prepare(self, layout: str, step: ScheduledStep) -> Executable:
        """Plan the step, and capture it where its tokens are few enough for a graph."""
        engine = self._engines[layout]
        generator = np.random.default_rng([self._seed, step.number])
        prepared = engine.prepare(step, generator.integers(engine.weights.model.vocab, size=step.tokens))
        if not prepared.is_captured or self._device.type != "cuda":
            return Executable(prepared.run, "eager", prepared.rows, prepared.backends)
        replay = self._captured(prepared.run)
        if replay is None:
            return Executable(prepared.run, "eager", prepared.rows, prepared.backends)
        return Executable(replay, "graph", prepared.rows, prepared.backends)

    def _captured(self, run: Callable[[int], object]) -> Callable[[int], object] | None:
        """Return a replay of the step's graph; None, and a note, where something in it cannot be captured."""
        import torch

        with torch.cuda.device(self._device):
            side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(side):
                for turn in range(WARM_UPS):
                    run(turn)
            torch.cuda.current_stream(self._device).wait_stream(side)
            torch.cuda.synchronize(self._device)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    run(0)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as failure:
                reason = (str(failure).splitlines() or [""])[0]
                note = f"a step could not be captured as a CUDA graph and ran eagerly: {reason}"
                self.notes[note] = self.notes.get(note, 0) + 1
                return None

        def replay(_: int, kept: Callable[[int], object] = run) -> None:
            # What was captured reads and writes the step's tensors, so these must live as long as the graph.
            graph.replay()

        return replay
