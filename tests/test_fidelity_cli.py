"""`kvsim calibrate fidelity` on the CPU, end to end, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic_device as device
from matplotlib.figure import Figure
from small_tables import SMALL, config_json

from kvsim.calibration.profile import Profile
from kvsim.cli import main
from kvsim.cli.calibrate_fidelity_runs import layouts_of
from kvsim.cli.calibrate_fidelity_trace import drawn_trace
from kvsim.cost import LinearCost
from kvsim.errors import InputError
from kvsim.reports.predicted import plot_predicted_measured

torch: Any = pytest.importorskip("torch")

TINY = {
    "--device": "cpu", "--steps": "1", "--max-model-len": "64", "--max-num-seqs": "3",
    "--max-num-batched-tokens": "24",
}  # fmt: skip
KINDS = {"decode", "prompt", "chunk", "mixed"}


def fidelity(*arguments: str) -> int:
    """Run it on something tiny, whatever the arguments do not say."""
    small = [part for flag in TINY.items() if flag[0] not in arguments for part in flag]
    return call("calibrate", "fidelity", *arguments, *small)


def call(*arguments: str) -> int:
    """Run kvsim; return its exit code."""
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Kernels this small wait for each other's threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("profile") / "p.json"
    device.profile([*device.every_point(), *device.mixed()]).save(path, with_points=False)
    return str(path)


@pytest.fixture(scope="module")
def folder(profile: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("fidelity") / "out"
    assert fidelity(profile, "-o", str(output)) == 0
    return output


def steps(folder: Path) -> list[dict[str, str]]:
    with (folder / "steps.csv").open() as stream:
        return list(csv.DictReader(stream))


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "fidelity.json").read_text())
    return found


def test_every_layout_executes_steps_of_every_kind(folder: Path) -> None:
    rows = steps(folder)

    kinds = {layout: {row["kind"] for row in rows if row["layout"] == layout} for layout in
             ("contiguous", "paged 16", "prefix 16")}  # fmt: skip
    assert kinds == {"contiguous": KINDS, "paged 16": KINDS, "prefix 16": {*KINDS, "prefix hit"}}
    assert all(float(row["measured_s"]) > 0 and float(row["predicted_s"]) > 0 for row in rows)


def test_what_the_cpu_says_is_marked_as_representing_nothing(folder: Path) -> None:
    found = record(folder)

    assert found["representative"] is False
    assert (found["layers"], found["of_layers"], found["device"]["type"]) == (2, 4, "cpu")
    assert any("not representative: executed on the CPU" in line for line in found["warnings"])
    assert any("2 of 4 layers are executed" in line for line in found["warnings"])
    assert max(found["logit_errors"].values()) < 0.05


def test_the_folder_holds_record_steps_and_plot(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}

    assert names == {"fidelity.json", "steps.csv", "predicted.png", "predicted.svg"}
    assert {each["layout"] for each in record(folder)["errors"]} == {
        "contiguous",
        "paged 16",
        "prefix 16",
        "all",
    }


def test_predictions_are_those_of_the_layers_that_are_executed(profile: str, tmp_path: Path) -> None:
    totals = []
    for layers in ("1", "3"):
        output = tmp_path / layers
        flags = ("--layers", layers, "--layouts", "paged", "-o", str(output))
        assert fidelity(profile, *flags) == 0
        rows = steps(output)
        totals.append(next(float(row["predicted_s"]) for row in rows if row["kind"] == "decode"))

    assert 2 < totals[1] / totals[0] < 3


def test_a_model_with_windows_has_its_own_layout(
    profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads(config_json(tmp_path).read_text())
    config |= {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = (
        "--model",
        str(tmp_path / "config.json"),
        "--layouts",
        "windowed,paged",
        "--pages",
        "8",
        "--json",
    )

    assert fidelity(profile, *flags) == 0

    found = json.loads(capsys.readouterr().out)
    assert {each["layout"] for each in found["errors"]} == {"windowed 8", "paged 8", "all"}
    assert any("with a window of 16 was not timed" in line for line in found["warnings"])


def test_a_trace_of_ones_own_is_executed(
    profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,40,8\n0,30,4\n")

    assert fidelity(profile, str(trace), "--layouts", "paged") == 0

    printed = capsys.readouterr().out
    assert "Logits of the mini engine are within" in printed
    assert "trace trace.csv (2 requests) | seed 0 | not representative" in printed


def test_gates_that_are_not_met_are_exit_5(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--layouts", "paged", "--decode-gate", "0", "--total-gate", "0")

    assert fidelity(profile, *flags) == 5
    assert "decode steps are off by" in capsys.readouterr().err


def test_ctrl_c_is_exit_130_and_keeps_the_steps(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvsim.calibration.fidelity_executor import EngineExecutor

    prepare, seen = EngineExecutor.prepare, []

    def interrupted(self: Any, layout: str, step: Any) -> Any:
        seen.append(step)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return prepare(self, layout, step)

    monkeypatch.setattr(EngineExecutor, "prepare", interrupted)
    output = tmp_path / "out"

    assert fidelity(profile, "-o", str(output)) == 130
    assert (record(output)["interrupted"], record(output)["steps"]) == (True, 2)
    assert f"steps, kept in {output}" in capsys.readouterr().err


def test_an_engine_that_computes_something_else_is_exit_4(
    profile: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kvsim.calibration.fidelity_check.LIMITS", {"bf16": 0.0})

    assert fidelity(profile) == 4
    assert "the mini engine refused on contiguous: logits are off by" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "auto"])
def test_without_cuda_it_is_exit_3_and_one_line(
    name: str, profile: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert fidelity(profile, "--device", name) == 3

    printed = capsys.readouterr().err
    assert printed.startswith("kvsim: no CUDA device found")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--device", "gpu"), "device must be auto, cuda, cuda:N or cpu, got 'gpu'"),
        (("--budget", "0"), "budget must be seconds above 0, got 0"),
        (("--steps", "0"), "steps must be ≥ 1, got 0"),
        (("--layers", "9"), "layers must be at most the model's 4, got 9"),
        (("--layouts", "pagde"), "did you mean 'paged'"),
        (("--layouts", "windowed"), "has no windowed layers"),
        (("--pages", "16,24"), "pages must be powers of two with commas, got '16,24'"),
        (("--pages", "x"), "pages must be powers of two with commas, got 'x'"),
        (("--backend", "tritton"), "did you mean 'triton'"),
        (("--kv-cache-dtype", "fp8"), "no attn_decode points over a KV cache of fp8"),
        (("--kv-cache-dtype", "fp7"), "KV cache dtype must be auto or one of"),
        (("--kv-tokens", "63"), "a KV pool of 63 tokens does not hold one sequence of 64"),
        (("--max-num-seqs", "99"), "max_num_batched_tokens must be at least max_num_seqs"),
        (("--model", "llama-3.1-8b"), "has layers 4, model llama-3.1-8b has 32"),
        (("--seed", "-1"), "seed must be ≥ 0, got -1"),
        (("--decode-gate", "-1"), "decode gate must be percent ≥ 0, got -1"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(
    flags: tuple[str, ...], words: str, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fidelity(profile, *flags) == 2

    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert words in printed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": replace(SMALL, weight_dtype="fp8")}, "weights are fp8, whose products are not executed"),
        ({"tensor_parallel_size": 2}, "fidelity executes on one GPU"),
    ],
)
def test_a_profile_that_one_gpu_cannot_execute_is_refused(changed: dict[str, Any], words: str) -> None:
    from kvsim.cli.calibrate_fidelity import FidelityOptions
    from kvsim.cli.calibrate_fidelity_choice import models_of

    found = Profile(**{"model": SMALL, **changed})

    with pytest.raises(InputError, match=words):
        models_of(found, FidelityOptions(), torch.device("cpu"))


def test_too_few_layers_of_a_windowed_model_say_how_many_it_takes() -> None:
    from kvsim.cli.calibrate_fidelity import FidelityOptions
    from kvsim.cli.calibrate_fidelity_choice import models_of
    from kvsim.zoo import find_model

    found = Profile(model=find_model("gemma-3-4b"))

    with pytest.raises(
        InputError, match="layers must be at least 6, so that gemma-3-4b has every window, got 2"
    ):
        models_of(found, FidelityOptions(layers=2), torch.device("cpu"))


def test_a_request_that_no_layout_can_hold_says_why(
    profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,400,8\n")

    assert fidelity(profile, str(trace), "--layouts", "paged") == 2
    assert "no request of the trace can run; prompt of 400 tokens does not fit" in capsys.readouterr().err


@pytest.mark.parametrize("longest", [32, 256, 8192])
def test_drawn_requests_fit_and_half_of_them_share_prefixes(longest: int) -> None:
    trace = drawn_trace(longest, 8, LinearCost(1e-3, 1e-5, 1e-7), 1, seed=0)

    shares = [len(trace.ids(row)) > 0 for row in range(len(trace))]
    assert (trace.prompt_tokens + trace.output_tokens).max() <= longest
    assert 0.3 < sum(shares) / len(shares) < 0.7
    assert trace.sha256() == drawn_trace(longest, 8, LinearCost(1e-3, 1e-5, 1e-7), 1, seed=0).sha256()


def test_layouts_are_named_once_and_pages_are_asked_of_paged_alone() -> None:
    names = [each.name for each in layouts_of(SMALL, ("paged", "prefix", "paged"), (1, 64), 128)]

    assert names == ["paged 1", "paged 64", "prefix 1"]


def test_points_stand_where_predicted_meets_measured() -> None:
    frame = pd.DataFrame(
        {"layout": ["paged 16", "paged 16", "prefix 16"], "kind": ["decode", "mixed", "decode"]}
    )
    frame["predicted_s"], frame["measured_s"] = [1e-3, 2e-3, 3e-3], [2e-3, 2e-3, 1e-3]
    axes = Figure().subplots()

    assert plot_predicted_measured(frame, axes, caption="profile p") is axes

    found = sorted(tuple(point) for dots in axes.collections[:3] for point in dots.get_offsets())
    assert found == [(1.0, 3.0), (2.0, 1.0), (2.0, 2.0)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Measured step time (ms)", "Predicted step time (ms)")
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["paged 16", "prefix 16", "decode", "mixed"]


def test_a_plot_of_nothing_is_refused() -> None:
    frame = pd.DataFrame({"layout": [], "kind": [], "predicted_s": [], "measured_s": []})

    with pytest.raises(InputError, match="predicted and measured"):
        plot_predicted_measured(frame)
