"""`kvsim validate run`: a measured run against its replay, by hand, by law, and against a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from measured_runs import COST, SETTINGS, bench_record, run, write_folder, write_trace

from kvsim.cli import main

SHARED = Path(__file__).resolve().parents[2] / "shared" / "traces" / "llmservingsim"
GPU = ("--gpu", "a100-80-sxm")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "t.jsonl")


def validate(
    capsys: pytest.CaptureFixture[str], trace: Path, measured: Path, *flags: str, code: int = 0
) -> dict[str, Any]:
    arguments = ["validate", "run", str(trace), "--measured", str(measured), *flags, "--json"]
    if code:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
    else:
        main(arguments)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def differences(found: dict[str, Any]) -> dict[str, float]:
    return {f"{line['metric']} {line['statistic']}": line["difference"] for line in found["differences"]}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["validate", "run", *map(str, arguments)])
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_the_simulator_made_comes_back_without_difference(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "measured", run(trace))

    found = validate(capsys, trace, folder, "--cost", COST, *GPU, "--within", "0")

    assert set(differences(found).values()) == {0.0}
    assert len(found["differences"]) == 22


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_server_slower_by_a_factor_comes_out_slower_by_it(
    trace: Path, tmp_path: Path, factor: float, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "measured", run(trace), slower=factor)

    found = differences(validate(capsys, trace, folder, "--cost", COST, *GPU, code=1))

    latencies = [value for name, value in found.items() if name.startswith(("ttft", "tpot", "e2el"))]
    assert latencies == pytest.approx([1 / factor - 1] * 15)


def test_a_bench_result_is_trace_and_measurement_in_one(
    tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(bench_record(run(trace))))
    log = tmp_path / "server.log"
    log.write_text("vLLM API server version 0.19.0\nGPU KV cache size: 6,400 tokens\n")
    flags = ("--server-log", str(log), "--max-num-seqs", "8", "--max-num-batched-tokens", "256")

    path = tmp_path / "bench.json"
    found = validate(capsys, path, path, "--cost", COST, *GPU, *flags, "--within", "0.001")

    assert max(map(abs, differences(found).values())) < 1e-5
    assert found["config"]["settings"]["num_gpu_blocks_override"] == SETTINGS["num_gpu_blocks_override"]


def test_flags_go_before_the_record_and_the_record_before_defaults(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "measured", run(trace))
    flags = ("--cost", COST, *GPU, "--max-num-seqs", "4", "--no-async-scheduling")

    chosen = validate(capsys, trace, folder, *flags, code=1)["config"]["settings"]

    assert (chosen["max_num_seqs"], chosen["async_scheduling"]) == (4, False)
    assert (chosen["max_num_batched_tokens"], chosen["model"]) == (256, "llama-3.1-8b")


def test_gpu_and_model_come_from_a_named_profile(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "measured", run(trace))

    found = validate(capsys, trace, folder, "--cost", "rtx4090/llama-3.1-8b", code=1)

    assert found["config"]["settings"]["gpu"] == "rtx4090"
    assert found["config"]["policy"] == "prefix"


def test_rows_may_be_recorded_in_another_order_than_they_arrived(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "measured", run(trace))
    path = folder / "requests.jsonl"
    path.write_text("".join(f"{line}\n" for line in reversed(path.read_text().splitlines())))

    found = validate(capsys, trace, folder, "--cost", COST, *GPU)

    assert set(differences(found).values()) == {0.0}


def test_the_table_says_what_is_outside_and_the_folder_holds_all_of_it(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "measured", run(trace), slower=2)
    out = tmp_path / "out"

    with pytest.raises(SystemExit):
        main(["validate", "run", str(trace), "--measured", str(folder), "--cost", COST, *GPU, "-o", str(out)])

    text = capsys.readouterr().out
    assert "-50.00 %     5 %  OUTSIDE" in text
    assert "of 18 figures within their limits" in text
    names = [
        "differences.csv",
        "measured.png",
        "measured.svg",
        "over_time.csv",
        "requests.csv",
        "validation.json",
    ]
    assert sorted(path.name for path in out.iterdir()) == names
    assert len(pd.read_csv(out / "requests.csv")) == 80
    assert json.loads((out / "validation.json").read_text())["is_within"] is False


def test_what_does_not_belong_together_is_refused_in_one_line(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "measured", run(trace))
    asked = ("--measured", folder, "--cost", COST)

    assert "which GPU was this measured on?" in refusal(capsys, trace, *asked)
    assert "has 39 requests, measured has answers to 40" in refusal(capsys, trace, *asked, *GPU, "--head", 39)
    other = write_trace(tmp_path / "other.jsonl")
    other.write_text(other.read_text().replace('"prompt_len": 37', '"prompt_len": 38'))
    assert "request 2 has a prompt of 38 tokens" in refusal(capsys, other, *asked, *GPU)
    assert "--within must be percent" in refusal(capsys, trace, *asked, *GPU, "--within", "x")
    assert "the simulation" in refusal(capsys, trace, *asked, *GPU, "--num-gpu-blocks-override", 5)
    assert "block-size must be a whole" in refusal(
        capsys, trace, *asked, *GPU, "--block-size", "x", "--server-log", folder / "meta.json"
    )


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/traces/llmservingsim")
def test_a_real_vllm_is_met_within_the_band_that_the_readme_states(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace = SHARED / "sharegpt-llama-3.1-8b-300-sps10.hash16.jsonl"
    measured = SHARED / "vllm_RTXPRO6000_Llama-3.1-8B"

    found = differences(
        validate(capsys, trace, measured, "--cost", "rtx-pro-6000/llama-3.1-8b", "--within", "3,6")
    )

    assert abs(found["ttft_ms mean"]) < 0.0225
    assert abs(found["ttft_ms p50"]) < 0.0475
    assert max(abs(value) for name, value in found.items() if name.startswith("tpot")) < 0.005
    assert max(abs(value) for name, value in found.items() if not name.startswith("ttft")) < 0.01
