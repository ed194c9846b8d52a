"""The recorder's command line, and vLLM itself where it is installed."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from kvsim.manifest import read_manifest
from kvsim.record_vllm import main

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracle"
NEEDED = ["t.jsonl", "-o", "out", "--num-gpu-blocks-override", "8", "--max-model-len", "64"]
HAS_VLLM = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
Log = list[dict[str, Any]]  # Any: what JSON holds


def oracle() -> Path:
    if not ORACLE.is_dir():
        pytest.skip("../shared/oracle is absent")
    return ORACLE


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a TRACE is needed, or --case-from MANIFEST:NAME"),
        (["--case-from", "none.json:a"], "none.json: there is no such file"),
        (NEEDED[:1], "--num-gpu-blocks-override is needed"),
        ([NEEDED[0], *NEEDED[3:], "--case", "../a"], "--case must be letters, digits"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-o", "out", *arguments]) == 2

    assert message in (told := capsys.readouterr().err)
    assert told.count("\n") == 1


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_recorder_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write_lines(tmp_path / "t.jsonl", {"arrival_s": 0, "prompt_len": 4, "output_len": 1})

    assert main([str(trace), "-o", str(tmp_path / "out"), *NEEDED[3:]]) == 2
    assert "vllm cannot be imported" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def recorded_by_vllm(folder: Path, *calls: list[str]) -> dict[str, Log]:
    """Run the recorder in a process of its own, where vLLM's warnings are no errors; return the logs."""
    script = "import json, sys\nfrom kvsim.record_vllm import main\n"
    script += "sys.exit(max(main(call) for call in json.loads(sys.argv[1])))"
    wanted = json.dumps([[*call, "-o", str(folder)] for call in calls])
    done = subprocess.run([sys.executable, "-c", script, wanted], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logs = {
        path.name.split(".")[0]: gzip.decompress(path.read_bytes()) for path in (folder / "logs").iterdir()
    }
    return {name: [json.loads(line) for line in text.splitlines()] for name, text in logs.items()}


@HAS_VLLM
def test_vllm_records_two_requests_as_on_paper(tmp_path: Path) -> None:
    row = {"arrival_s": 0, "prompt_len": 5, "output_len": 2}
    trace = write_lines(tmp_path / "t.jsonl", row, row)
    flags = "--num-gpu-blocks-override 4 --max-model-len 8 --block-size 4 --cost 1,0,0 --max-num-seqs 2"

    header, first, second, third, fourth, *requests = recorded_by_vllm(
        tmp_path, [str(trace), *flags.split()]
    )["t"]

    assert header["info"]["startup_blocks_needed"] == 2
    assert [step["sched"] for step in (first, second, third, fourth)] == [
        *([[0, 5]], [[0, 1]], [[1, 5]], [[1, 1]]),
    ]
    assert (first["blk"], first["wait"], second["fin"], second["blk_end"]) == (2, 1, [0], 0)
    assert [row["finish"] for row in requests] == [2.0, 4.0]


@HAS_VLLM
@pytest.mark.shared
def test_vllm_records_the_small_shared_cases_again(tmp_path: Path) -> None:
    manifest = oracle() / "manifest.json"
    # Under priority 0.33 differs from 0.32 (rule E5).
    cases = {
        case.name: case
        for case in read_manifest(manifest)
        if case.name.startswith("tiny_") and case.config.policy == "fcfs"
    }

    again = recorded_by_vllm(tmp_path, *(["--case-from", f"{manifest}:{name}"] for name in cases))

    for name, case in cases.items():
        text = gzip.decompress(case.log.read_bytes())
        assert again[name][1:] == [json.loads(line) for line in text.splitlines()][1:]
