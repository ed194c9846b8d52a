"""Whatever is wrong with what a user gives: one line that names it, exit code 2, nothing half-written."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from kvsim.cli import main

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
ROW = '{"arrival_s": 0, "prompt_len": 100, "output_len": 5}\n'
MOONCAKE = '{"timestamp": 0, "input_length": 1024, "output_length": 2, "hash_ids": [1, 2]}\n'

TRACES: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "the file is empty"),
    "head.csv": (AZURE.splitlines(True)[0].encode(), "the trace has no requests"),
    "missing.csv": (b"TIMESTAMP,ContextTokens\n2023-11-16 18:15:46.6805900,374\n", "not a trace format that is known"),
    "nan.csv": (AZURE.replace("374", "nan").encode(), "row 1: ContextTokens is nan; it must be an integer"),
    "time.jsonl": (ROW.replace(": 0,", ": NaN,").encode(), "arrival_s is nan; it must be a finite number"),
    "negative.csv": (AZURE.replace("44", "-44").encode(), "row 1: GeneratedTokens is -44; it must be an integer"),
    "before.jsonl": (ROW.replace(": 0,", ": -1,").encode(), "arrival_s is -1"),
    "zero.csv": (AZURE.replace("374", "0").encode(), "row 1: ContextTokens is 0; it must be an integer from 1"),
    "latin.csv": (AZURE.encode() + b"caf\xe9,1,1\n", "not UTF-8 text"),
    "cut.csv.gz": (gzip.compress(AZURE.encode() * 99)[:-9], "the gzip data is damaged or cut short"),
    "other.csv": (AZURE.encode() + b"0.5,10,20,30\n", "row 2: 4 fields where the header has 3"),
    "unchained.jsonl": ((MOONCAKE + MOONCAKE.replace("[1,", "[3,")).encode(), "must always have the same predecessor"),
}  # fmt: skip
"""File, what is in it, and what is said of it."""

FLAGS = [
    ("--policy pagd", "unknown policy 'pagd' (did you mean 'paged'?)"),
    ("--policy paged:blok_size=3", "no parameter 'blok_size' (did you mean 'block_size'?)"),
    ("--policy paged:block_size=many", "block_size must be int, got 'many'"),
    ("--policy paged:block_size=true", "block_size must be int, got True"),
    ("--policy sliding-window:window=1.5", "window must be int | None, got 1.5"),
    ("--policy paged:preemption=swap:swap_space_gib=-1", "swap_space_gib must be a number of GiB from 0 up"),
    ("--policy paged:preemption=swap:link_gb_per_s=0", "link_gb_per_s must be above 0 GB/s, got 0"),
    ("--policy ./none.py:Mine", "policy file 'none.py' does not exist"),
    ("--policy no_such_module:Mine", "policy module 'no_such_module' cannot be imported"),
    ("--model lama-2-7b", "unknown model 'lama-2-7b' (did you mean 'llama-2-7b'"),
    ("--gpu h10-sxm", "unknown GPU 'h10-sxm' (did you mean 'h100-sxm'"),
    ("--format azur", "unknown trace format 'azur' (did you mean 'azure'?)"),
    ("--cost rooflin", "cost must be roofline, roofline:GPU or linear:A,B,C, got 'rooflin'"),
    ("--cost linear:1,2", "three numbers of seconds, got 'linear:1,2'"),
    ("--cost linear:-1,0,0", "A must be seconds ≥ 0, got -1.0"),
    ("--cost roofline:h10-sxm", "unknown GPU 'h10-sxm' (did you mean 'h100-sxm'"),
    ("--no-enable-chunked-prefill --max-num-batched-tokens 512", "must be at least max_model_len (131072), got 512"),
    ("--max-num-batched-tokens 100", "max_num_batched_tokens must be at least max_num_seqs (256), got 100"),
    ("--policy paged --enable-prefix-caching", "--enable-prefix-caching contradicts policy 'paged'"),
    ("--policy prefix --no-enable-prefix-caching", "contradicts policy 'prefix'; use --policy paged"),
    ("--policy sliding-window --kv-groups [{", "kv_groups is not JSON"),
    ("--policy sliding-window --kv-groups 5", "kv_groups must be a list of groups, got '5'"),
    ("--policy sliding-window --prefix-cache-retention-interval -3", "must be 0, tokens above 0, or none, got -3"),
    ("--watermark 1", "watermark must be in [0, 1), got 1.0"),
    ("--watermark nan", "watermark must be in [0, 1), got nan"),
    ("--block-size 0", "block_size must be at least 1 token, got 0"),
    ("--policy contiguous --block-size -16", "block_size must be at least 1 token, got -16"),
    ("--gpu-memory-utilization 0", "gpu_memory_utilization must be above 0 and at most 1, got 0.0"),
    ("--gpu-memory-utilization 1.5", "gpu_memory_utilization must be above 0 and at most 1, got 1.5"),
    ("--max-num-seqs 0", "max_num_seqs must be at least 1, got 0"),
    ("--max-model-len 0", "max_model_len must be at least 1, got 0"),
    ("--max-model-len -1", "max_model_len must be at least 1, got -1"),
    ("--kv-cache-memory-bytes -1", "kv_cache_memory_bytes must be at least 1, got -1"),
    ("--kv-cache-memory-bytes 99 --num-gpu-blocks-override 9", "or num_gpu_blocks_override, not both"),
    ("--num-gpu-blocks-override 1", "a pool needs at least 2"),
    ("--tensor-parallel-size 3", "tensor_parallel_size must divide the 32 query heads of llama-3.1-8b, got 3"),
    ("--model llama-3.1-70b --gpu l4", "weights take 131.41 GiB of the 22.49 GiB each GPU has"),
    ("--goodput ttft", "goodput must be like ttft:200,tpot:50,e2el:5000 in ms, got 'ttft'"),
    ("--head 0", "head must be at least 1 request, got 0"),
    ("--sample 2", "sample must be a share above 0 and at most 1, got 2"),
    ("--sample 0.5 --seed -1", "seed must be a whole number from 0 up, got -1"),
    ("--between 9,10", "keeps no request"),
    ("--arrival gama --rate 1", "arrival process must be poisson, gamma:CV"),
    ("--block-size many", 'unable to convert "many" into int'),
    ("--scheduler fair", 'Invalid value "fair" for --scheduler. Choose from: "vllm", "static".'),
    ("--step-log none/steps.jsonl", "none/steps.jsonl: cannot be written: No such file or directory"),
    ("--config none.toml", "none.toml: No such file or directory"),
]  # fmt: skip
"""Flags of `kvsim run`, and what is said of them."""

OTHERS = [
    ("compare rows.jsonl --policies paged,paged", "policy 'paged' is named twice"),
    ("compare rows.jsonl --policies paged,pagd", "unknown policy 'pagd' (did you mean 'paged'?)"),
    ("compare rows.jsonl --policies ,", "no policy is named"),
    ("compare rows.jsonl --jobs 0", "--jobs must be at least 1, got 0"),
    ("compare rows.jsonl --json --markdown", "give one of them"),
    ("trace generate agnt -o out.parquet", "unknown workload 'agnt' (did you mean 'agent'"),
    ("trace generate agent -o out.parquet --seed -1", "seed must be a whole number from 0 up, got -1"),
    ("trace stats none.csv", "none.csv: there is no such file or folder"),
    ("trace stats folder", "no traces in this folder"),
    ("capacity --model lama-2-7b --gpu l4", "unknown model 'lama-2-7b' (did you mean 'llama-2-7b'"),
    ("demo --seed -1", "seed must be a whole number from 0 up, got -1"),
    ("run none.csv", "none.csv: there is no such file or folder"),
    ("run folder", "no traces in this folder"),
    ("run rows.jsonl -o full", "output folder 'full' exists and is not empty; name a new one"),
    ("run rows.jsonl -o rows.jsonl", "output 'rows.jsonl' exists and is not a folder"),
    ("run rows.jsonl -o rows.jsonl/out", "output folder 'rows.jsonl/out' cannot be written: Not a directory"),
    ("compare rows.jsonl -o /proc/kvsim", "output folder '/proc/kvsim' cannot be written"),
    ("demo -o full", "output folder 'full' exists and is not empty; name a new one"),
]  # fmt: skip
"""Other command lines, and what is said of them."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that a command stops with; it must have written nothing."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("kvsim: ")
    assert printed.err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return printed.err


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_that_cannot_be_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, said = TRACES[name]
    Path(name).write_bytes(content)

    line = complaint(capsys, "run", name, "-o", "out")
    assert line.startswith(f"kvsim: {name}")
    assert said in line


@pytest.mark.parametrize(("flags", "said"), FLAGS)
def test_flags_that_cannot_be_meant(flags: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in complaint(capsys, "run", "rows.jsonl", *flags.split(" "), "-o", "new/out")


@pytest.mark.parametrize(("line", "said"), OTHERS)
def test_commands_that_cannot_be_done(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in complaint(capsys, *line.split(" "))


def test_settings_are_looked_at_before_a_long_trace_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.csv").write_text("not a trace")

    assert "unknown GPU" in complaint(capsys, "run", "broken.csv", "--gpu", "h10")


def test_rows_out_of_order_are_sorted_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text(ROW.replace(": 0,", ": 5,") + ROW)

    main(["run", "rows.jsonl", "--cost", "linear:0.01,0,0"])

    assert "1 row came before the one above by arrival; the rows were sorted" in capsys.readouterr().err


def test_an_arrival_at_zero_is_an_arrival(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "rows.jsonl", "--cost", "linear:0.01,0,0", "--json"])

    assert '"completed": 1' in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    ["run none.csv", "run rows.jsonl --gpu h10", "run rows.jsonl -o full", "run rows.jsonl --watermark 2"],
)
def test_the_real_command_line_says_it_without_a_traceback(line: str) -> None:
    command = [sys.executable, "-c", "from kvsim.cli import main; main()", *line.split(" ")]
    done = subprocess.run(command, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kvsim: ")
    assert done.stderr.count("\n") == 1
