"""The mini engine executes what the simulator schedules: its logits are those of the model, whatever the policy did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kvsim.calibration.backends import Chooser
from kvsim.calibration.case import Case
from kvsim.calibration.fidelity_check import check_engine
from kvsim.calibration.fidelity_executor import EngineExecutor, chooser
from kvsim.calibration.fidelity_steps import ScheduledStep
from kvsim.calibration.kv_store import KvStore
from kvsim.calibration.mini_engine import MiniEngine, padded_rows
from kvsim.calibration.mini_engine_memory import EngineMemory, layout_of_groups, layout_of_one_table
from kvsim.calibration.mini_engine_reference import reference_logits
from kvsim.calibration.mini_engine_weights import Weights, is_cold, sets_that_fit
from kvsim.calibration.numeric_check import BackendRefusedError
from kvsim.cli.calibrate_fidelity_runs import Layout, Setting, layouts_of, record_steps
from kvsim.config import RunConfig
from kvsim.cost import LinearCost
from kvsim.errors import InputError
from kvsim.model import Model
from kvsim.traces.trace import Trace

torch: Any = pytest.importorskip("torch")

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {
    "layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 48, "vocab": 101,
    "max_position_embeddings": 256, "dtype": "fp32", "weight_dtype": "fp32",
}  # fmt: skip
FULL = Model(name="full", **SHAPE)
WINDOWED = Model(name="windowed", windows=(None, 12, 12, None), **SHAPE)
ID_TOKENS, LONGEST, TIGHT, ROOMY = 8, 96, 160, 96 * 5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trace() -> Trace:
    """Return twelve requests, half of which begin with the same 24 tokens."""
    generator = np.random.default_rng(5)
    shares = np.arange(12) % 2 == 0
    return Trace(
        name="small",
        arrival=np.arange(12) * 2.0,
        prompt_tokens=generator.integers(3, 40, 12) + 24 * shares,
        output_tokens=generator.integers(1, 12, 12),
        block_ids=np.tile(np.arange(3), 6),
        block_offsets=np.concatenate(([0], np.cumsum(3 * shares))),
        block_tokens=ID_TOKENS,
    ).checked()


def prompts(work: Trace, vocab: int) -> list[list[int]]:
    """Return each request's tokens: equal where the trace says that content is shared."""
    shared = np.random.default_rng(1).integers(vocab, size=64)
    texts = []
    for row in range(len(work)):
        own = np.random.default_rng([2, row]).integers(vocab, size=int(work.prompt_tokens[row]))
        for place, number in enumerate(work.ids(row)):
            part = slice(place * ID_TOKENS, (place + 1) * ID_TOKENS)
            own[part] = shared[number * ID_TOKENS : (number + 1) * ID_TOKENS]
        texts.append(own.tolist())
    return texts


def engine(model: Model, layout: Layout, tokens: int, fuses: bool, sets: int = 4) -> MiniEngine:
    weights = Weights(model, device=CPU, sets=sets, seed=0)
    store = KvStore(
        tokens=model.layers * tokens, kv_heads=model.kv_heads, head_size=model.head_dim, kv_dtype="fp32",
        device=CPU, seed=1,
    )  # fmt: skip
    memory = EngineMemory(store, layout.pool)
    return MiniEngine(weights, memory, Chooser(CPU), most_positions=LONGEST, fuses=fuses)


def scheduled(model: Model, layout: Layout, tokens: int) -> list[ScheduledStep]:
    config = RunConfig(max_model_len=LONGEST, max_num_seqs=6, max_num_batched_tokens=20)
    setting = Setting(model=model, workload=trace(), config=config, kv_tokens=tokens, per_kind=9999)
    return record_steps(layout, setting, lambda layout, policy: LinearCost(1.0, 0.0, 0.0)).steps


def largest_error(engine: MiniEngine, steps: list[ScheduledStep]) -> float:
    """Execute all steps, feed every sampled token back, and compare each with the model computed at once."""
    work = trace()
    texts, worst = prompts(work, engine.weights.model.vocab), 0.0
    for step in steps:
        ids = [texts[each.row][each.length - each.tokens : each.length] for each in step.sequences]
        prepared = engine.prepare(step, np.concatenate(ids))
        prepared.run(0)
        for place, each in enumerate(step.sequences):
            wanted = reference_logits(engine.weights, np.array(texts[each.row][: each.length]))[-1]
            worst = max(worst, float((prepared.logits[place] - wanted).norm() / wanted.norm()))
            if each.length == len(texts[each.row]):
                texts[each.row].append(int(prepared.sampled[place]))
    assert [len(text) for text in texts] == (work.prompt_tokens + work.output_tokens).tolist()
    return worst


CASES = [
    (model, kind, page, tokens)
    for model in (FULL, WINDOWED)
    for kind, page, tokens in (
        ("contiguous", 16, ROOMY), ("paged", 1, TIGHT), ("paged", 4, TIGHT), ("paged", 16, TIGHT),
        ("prefix", 4, TIGHT), ("windowed", 4, TIGHT),
    )
    if model is WINDOWED or kind != "windowed"
]  # fmt: skip


@pytest.mark.parametrize("fuses", [True, False], ids=["fused", "apart"])
@pytest.mark.parametrize(
    ("model", "kind", "page", "tokens"), CASES, ids=lambda each: getattr(each, "name", each)
)
def test_every_logit_is_that_of_the_whole_text_at_once(
    model: Model, kind: str, page: int, tokens: int, fuses: bool
) -> None:
    layout = layouts_of(model, (kind,), (page,), LONGEST)[0]

    steps = scheduled(model, layout, tokens)

    assert {"decode", "mixed"} <= {step.kind for step in steps}
    assert largest_error(engine(model, layout, tokens, fuses), steps) < 1e-5


def test_the_simulated_run_shares_chunks_and_preempts() -> None:
    layout = layouts_of(FULL, ("prefix",), (4,), LONGEST)[0]

    steps = scheduled(FULL, layout, TIGHT)

    rows = [each for step in steps for each in step.sequences if not each.is_decode]
    firsts = [each for each in rows if each.length == each.tokens]
    assert any(each.length > each.tokens for each in rows)
    assert len(firsts) < 12  # some began behind a hit
    pages = [(step.number, each.tables[0][0]) for step in steps for each in step.sequences]
    assert len(set(pages)) < len(pages)  # and read the same first page in the same step


def test_a_wrong_page_shows() -> None:
    layout = layouts_of(FULL, ("paged",), (4,), LONGEST)[0]
    steps = scheduled(FULL, layout, TIGHT)
    number = next(number for number, step in enumerate(steps) if step.kind == "decode")
    first, *others = steps[number].sequences
    table = (0, *first.tables[0][1:])
    steps[number] = steps[number]._replace(sequences=(first._replace(tables=(table,)), *others))

    assert largest_error(engine(FULL, layout, TIGHT, True), steps) > 1e-2


def test_layers_may_share_weights_but_never_kv() -> None:
    layout = layouts_of(FULL, ("paged",), (4,), LONGEST)[0]
    small = engine(FULL, layout, TIGHT, True, sets=1)

    assert small.weights.layer(3) is small.weights.layer(0)
    assert check_engine(small, "paged", 0) < 1e-5
    assert len({place.region for place in small.memory.layout.places}) == 4


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_check_passes_in_every_dtype(dtype: str, gated: bool) -> None:
    model = Model(name="m", **SHAPE | {"dtype": dtype, "weight_dtype": dtype, "gated": gated})
    store = KvStore(tokens=640, kv_heads=2, head_size=8, kv_dtype=dtype, device=CPU, seed=0)
    memory = EngineMemory(store, layout_of_one_table(model, "paged", 16))
    weights = Weights(model, device=CPU, sets=4, seed=0)

    assert (
        check_engine(MiniEngine(weights, memory, Chooser(CPU), most_positions=64, fuses=True), "p", 0) < 0.05
    )


@pytest.mark.parametrize("kv_dtype", ["fp8", "int8"])
def test_quantised_keys_and_values_are_near_enough(kv_dtype: str) -> None:
    store = KvStore(tokens=640, kv_heads=2, head_size=8, kv_dtype=kv_dtype, device=CPU, seed=0)
    memory = EngineMemory(store, layout_of_one_table(FULL, "paged", 16))
    weights = Weights(FULL, device=CPU, sets=4, seed=0)

    assert (
        check_engine(MiniEngine(weights, memory, Chooser(CPU), most_positions=64, fuses=True), "p", 0) > 1e-4
    )


def test_a_kernel_that_does_not_take_a_case_gives_way_to_the_best() -> None:
    choose = chooser(CPU, "sdpa-flash", 0)
    shape: dict[str, Any] = {"heads": (4, 2, 8), "dtype": "fp32"}

    assert choose(Case(q=(5,), kv=(5,), **shape)).backend.name == "sdpa-flash"
    assert choose(Case(q=(1,), kv=(5,), **shape)).backend.name == "reference"


def test_an_engine_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layouts_of(FULL, ("paged",), (4,), LONGEST)[0]
    monkeypatch.setattr("kvsim.calibration.mini_engine._positions", lambda step: np.zeros(step.tokens, int))

    with pytest.raises(BackendRefusedError, match=r"the mini engine refused on paged: logits are off by"):
        check_engine(engine(FULL, layout, TIGHT, True), "paged", 0)


def test_groups_share_regions_and_have_tables_of_their_own() -> None:
    layout = layout_of_groups(WINDOWED, 16)

    assert (layout.regions, layout.tables) == (2, 2)
    assert len({(place.table, place.region) for place in layout.places}) == 4


def test_a_store_without_room_for_a_page_is_refused() -> None:
    store = KvStore(tokens=32, kv_heads=2, head_size=8, kv_dtype="fp32", device=CPU, seed=0)

    with pytest.raises(InputError, match="no room for 4 regions of pages of 16 tokens"):
        EngineMemory(store, layout_of_one_table(FULL, "paged", 16))


def test_products_are_padded_like_captured_graphs() -> None:
    assert [padded_rows(tokens) for tokens in (1, 3, 9, 512)] == [
        (1, True),
        (4, True),
        (16, True),
        (512, True),
    ]
    assert padded_rows(513) == (513, False)


def test_as_many_weights_are_drawn_as_fit_half_the_memory() -> None:
    layer = 4 * (32 * 64 + 32 * 32 + 32 * 96 + 48 * 32)
    outer = 2 * 4 * 32 * 101

    assert sets_that_fit(FULL, 0) == 1
    assert sets_that_fit(FULL, 2 * (outer + 3 * layer)) == 3
    assert sets_that_fit(FULL, 1 << 40) == 4
    assert is_cold(FULL, 2, 2 * layer // 5)
    assert not is_cold(FULL, 1, 2 * layer // 5)


class Recorded:
    """Stands in for torch.cuda: a graph is the list of calls made while it is captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
        self.replays, self.captures, self.fails = 0, 0, fails
        names = ("Stream", "current_stream", "synchronize")
        for name in names:
            monkeypatch.setattr(torch.cuda, name, lambda *_: SimpleNamespace(wait_stream=lambda _: None))
        for name in ("device", "stream"):
            monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=self.replay))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    def replay(self) -> None:
        self.replays += 1

    @contextmanager
    def graph(self, _: object) -> Iterator[None]:
        self.captures += 1
        yield
        if self.fails:
            raise RuntimeError("not permitted\nwhile capturing")


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_is_captured_once_and_replayed_or_else_runs_eagerly(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layouts_of(FULL, ("paged",), (4,), LONGEST)[0]
    cuda = Recorded(monkeypatch, fails)
    executor = EngineExecutor({"p": engine(FULL, layout, TIGHT, True)}, torch.device("cuda"), 0)

    ready = executor.prepare("p", scheduled(FULL, layout, TIGHT)[0])
    ready.call(0)

    assert (ready.mode, ready.rows, cuda.captures) == ("eager" if fails else "graph", 24, 1)
    assert cuda.replays == (0 if fails else 1)
    assert list(executor.notes.values()) == ([1] if fails else [])


def test_our_triton_kernels_compute_the_model_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    script = Path(__file__).with_name("triton_engine.py")

    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "1"}
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout).values()) < 1e-5
