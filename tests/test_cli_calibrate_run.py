"""`kvsim calibrate run` on the CPU, end to end, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_tables import config_json

from kvsim.calibration.attention_kinds import form_name
from kvsim.calibration.profile_file import read_profile
from kvsim.cli import main

torch = pytest.importorskip("torch")


def call(*arguments: str) -> int:
    """Run kvsim; return its exit code."""
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model and the profile of a calibration on the CPU."""
    path = tmp_path_factory.mktemp("calibrated")
    arguments = ("--model", str(config_json(path)), "--device", "cpu", "--smoke", "-o", str(path / "p.json"))
    assert call("calibrate", "run", *arguments) == 0
    return path


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(config_json(tmp_path))


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_cpu_gives_a_whole_profile_that_says_it_represents_nothing(folder: Path) -> None:
    profile = read_profile(folder / "p.json")

    assert not profile.representative
    assert profile.device["type"] == "cpu"
    assert {"attn_decode", "attn_prefill", "attn_mixed", "gemm", "lm_head", "launch"} <= {
        p.op for p in profile.points
    }
    assert {point.layout for point in profile.points} == {"paged", "contiguous", "shared"}
    assert any("not representative" in warning for warning in profile.warnings)
    assert {"copy_gbs", "gemm_tflops", "launch_eager_us"} <= set(profile.ceilings)
    assert profile.device["threads"] == 1
    assert profile.source["lengths"] == "drawn; of no trace"
    assert not (folder / "p.json.partial").exists()


def test_the_cpus_threads_are_what_they_were_before(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def stop(self: object, planned: object) -> None:
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr("kvsim.calibration.bench.TorchBench.check", stop)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (
            call("calibrate", "run", "--model", model, "--device", "cpu", "-o", str(tmp_path / "p.json"))
            == 130
        )
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_whole_prompts_and_chunks_are_fitted_by_their_kernels_and_steps_have_errors(folder: Path) -> None:
    profile = read_profile(folder / "p.json")

    whole = "attn_prefill whole prompts kv=bf16"
    assert {whole, "attn_prefill paged page=16 kv=bf16"} <= set(profile.measured)
    kernels = {point.backend for point in profile.points if form_name(point) == whole}
    assert kernels == {"sdpa-flash"}
    assert {whole, "attn_decode shared page=16 kv=bf16", "step decode", "step prefill"} <= set(profile.errors)


def test_check_passes_on_it_and_holds_no_error_of_the_cpu_against_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call("calibrate", "check", str(folder / "p.json"), "--decode-gate", "0", "--prefill-gate", "0")

    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "passed" in printed
    assert "fitted again from its points" in printed
    assert "errors are not held against the gates" in printed


TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,100,20\n0,60,50\n"


def test_lengths_come_from_a_trace_that_the_profile_names(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, output = tmp_path / "mine.csv", tmp_path / "p.json"
    trace.write_text(TRACE)
    monkeypatch.setattr("kvsim.calibration.bench.TorchBench.check", lambda self, planned: None)
    flags = ("--model", model, "--device", "cpu", "--trace", str(trace), "-o", str(output))

    assert call("calibrate", "run", *flags) == 0
    source: dict[str, Any] = dict(read_profile(output).source)
    assert source["lengths"].startswith("of requests of mine.csv (2 requests, sha256 ")
    assert len(source["trace"]["sha256"]) == 64
    drawn = [point for point in read_profile(output).points if point.set == "D2"]
    assert {60 < kv <= 120 for point in drawn for kv in point.kv} == {True}
    assert call("calibrate", "show", str(output)) == 0
    assert "lengths: of requests of mine.csv" in capsys.readouterr().out


def test_a_calibration_goes_on_with_its_own_trace_only(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.csv").write_text(TRACE)
    monkeypatch.setattr("kvsim.calibration.bench.TorchBench.check", lambda self, planned: None)
    flags = ("--model", model, "--device", "cpu", "-o", str(tmp_path / "p.json"))
    assert call("calibrate", "run", *flags, "--budget", "0.001") == 2
    capsys.readouterr()

    assert call("calibrate", "run", *flags, "--resume", "--trace", str(tmp_path / "mine.csv")) == 2
    assert "trace is None there and " in capsys.readouterr().err


def test_every_attention_point_names_its_kernel_and_its_numeric_error(folder: Path) -> None:
    points = [point for point in read_profile(folder / "p.json").points if point.q]

    assert all(point.backend and point.rel_err is not None and point.rel_err < 1e-2 for point in points)
    assert all(len(point.ns) >= 3 and point.mode == "eager" and not point.cold for point in points)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_run_takes_it_only_when_told_to(
    folder: Path, tmp_path: Path, allowed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,64,8\n0,32,4\n")
    flags = ("--gpu", "h200-sxm", "--cost", str(folder / "p.json"), "--policy", "paged")
    allow = ("--allow-unrepresentative",) if allowed else ()

    code = call("run", str(trace), "--model", str(folder / "config.json"), *flags, *allow)

    printed = capsys.readouterr()
    assert code == (0 if allowed else 2), printed.err
    assert allowed or "does not represent a GPU; --allow-unrepresentative" in printed.err


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(("device", "hinted"), [("cuda", False), ("cuda:0", False), ("auto", True)])
def test_without_cuda_it_is_exit_3_and_one_line(
    device: str, hinted: bool, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "p.json"

    code = call("calibrate", "run", "--model", model, "--device", device, "-o", str(output))

    printed = capsys.readouterr().err
    assert (code, printed.count("\n")) == (3, 1)
    assert printed.startswith("kvsim: no CUDA device found")
    assert ("--device cpu" in printed) == hinted
    assert sorted(os.listdir(tmp_path)) == ["config.json"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--device", "gpu"), "device must be auto, cuda, cuda:N or cpu, got 'gpu'"),
        (("--budget", "0"), "budget must be seconds above 0, got 0"),
        (("--dtype", "fp8"), "dtype must be one of bf16, fp16, fp32, got 'fp8'"),
        (("--block-size", "24"), "block size must be a power of two from 1 to 256, got 24"),
        (("--backend", "tritton"), "did you mean 'triton'"),
        (("--tensor-parallel-size", "3"), "tensor_parallel_size"),
        (("--resume",), "nothing to resume"),
        (("--seed", "-1"), "seed must be ≥ 0, got -1"),
        (("--trace", "nowhere.csv"), "nowhere.csv: there is no such file or folder"),
        (("--columns", "prompt=p"), "--columns says how to read a trace; --trace names none"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(
    flags: tuple[str, ...], words: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags if "--device" in flags else ("--device", "cpu", *flags)

    code = call("calibrate", "run", "--model", model, *given, "-o", str(tmp_path / "p.json"))

    printed = capsys.readouterr().err
    assert (code, printed.count("\n")) == (2, 1)
    assert words in printed


def test_a_budget_too_small_for_any_profile_keeps_its_points(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kvsim.calibration.bench.TorchBench.check", lambda self, planned: None)
    output = tmp_path / "p.json"

    code = call(
        "calibrate", "run", "--model", model, "--device", "cpu", "--budget", "0.001", "-o", str(output)
    )

    assert code == 2
    assert "missing op" in (printed := capsys.readouterr().err)
    assert "go on with --resume" in printed
    assert json.loads((tmp_path / "p.json.partial").read_text().split("\n")[0])["about"]["model"]
    assert not output.exists()


def test_a_kernel_that_computes_something_else_is_exit_4(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "kvsim.calibration.numeric_check.LIMITS", dict.fromkeys(("bf16", "fp16", "fp32"), -1.0)
    )

    code = call("calibrate", "run", "--model", model, "--device", "cpu", "-o", str(tmp_path / "p.json"))

    assert code == 4
    assert "refused on" in capsys.readouterr().err


def test_ctrl_c_is_exit_130_and_says_how_to_go_on(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: object, planned: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kvsim.calibration.bench.TorchBench.check", interrupt)

    code = call("calibrate", "run", "--model", model, "--device", "cpu", "-o", str(tmp_path / "p.json"))

    assert code == 130
    assert "go on with --resume" in capsys.readouterr().err
