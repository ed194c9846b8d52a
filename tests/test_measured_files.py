"""Reading measured runs: folders, bench results, server logs, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from measured_runs import bench_record, run, write_folder, write_meta, write_trace

from kvsim.errors import InputError
from kvsim.measured_bench import read_measured
from kvsim.measured_settings import is_async, known_model, read_server_log

LOG = """\
INFO 11-25 10:00:00 [api_server.py:1] vLLM API server version 0.19.0
INFO 11-25 10:00:00 [utils.py:253] non-default args: {'model_tag': 'meta-llama/Llama-3.1-8B', 'max_num_seqs': 128, \
'compilation_config': <CompilationConfig level=3>, 'enable_prefix_caching': False, 'port': 8000}
INFO 11-25 10:00:01 [scheduler.py:1] Chunked prefill is enabled with max_num_batched_tokens=2048.
INFO 11-25 10:00:09 [kv_cache_utils.py:1] GPU KV cache size: 478,000 tokens
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "measured", run(write_trace(tmp_path / "t.jsonl")))


def change(folder: Path, line: int, **fields: Any) -> None:
    path = folder / "requests.jsonl"
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    rows[line - 1] |= fields
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_a_folder_tells_requests_and_settings(folder: Path) -> None:
    found = read_measured(folder)

    assert len(found.requests) == 40
    assert found.facts == {"engine": "vLLM 0.19.0"}
    assert found.settings == {
        "max_num_seqs": 8, "max_num_batched_tokens": 256, "num_gpu_blocks_override": 400, "block_size": 16,
        "model": "llama-3.1-8b", "async_scheduling": True,
    }  # fmt: skip


def test_arrivals_on_the_unix_clock_are_moved_to_the_engines(tmp_path: Path) -> None:
    result = run(write_trace(tmp_path / "t.jsonl"))
    same = read_measured(write_folder(tmp_path / "same", result))
    other = read_measured(write_folder(tmp_path / "other", result, unix=True))

    assert other.requests.ttft_ms.tolist() == pytest.approx(same.requests.ttft_ms.tolist(), abs=1e-3)
    assert "another clock" in other.notes[0]


def test_requests_that_were_not_answered_are_left_out(folder: Path) -> None:
    nothing = dict.fromkeys(["arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts"])
    change(folder, 5, **nothing)

    found = read_measured(folder)

    assert len(found.requests) == 39
    assert found.notes[0] == "1 requests were not answered, and are left out"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_toks": "12"}, "line 3: input_toks is '12'; it must be a whole number of tokens"),
        ({"output_toks": 0}, "line 3: output_toks is 0; it must be a whole number of at least 1"),
        ({"queued_ts": True}, "line 3: queued_ts is True; it must be seconds, or null"),
        ({"queued_ts": None}, "line 3: queued_ts is missing in a request that was answered"),
        ({"first_token_ts": 1e-9}, "request 3: first_token at"),
    ],
)
def test_a_bad_row_is_named(folder: Path, fields: dict[str, Any], message: str) -> None:
    change(folder, 3, **fields)

    with pytest.raises(InputError, match=message):
        read_measured(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("requests.jsonl", "{", "line 1: not JSON"),
        ("requests.jsonl", "[]", "line 1: not a JSON object"),
        ("requests.jsonl", "", "no request was answered"),
        ("meta.json", "{", "meta.json: not JSON"),
        ("meta.json", "[]", "not an object with engine_kwargs"),
        ("timeseries.csv", "a,b\n1,2\n", "needs number columns t and kv_cache_pct"),
        ("timeseries.csv", "t,kv_cache_pct\n1,x\n", "needs number columns t and kv_cache_pct"),
    ],
)
def test_a_bad_file_is_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)

    with pytest.raises(InputError, match=message):
        read_measured(folder)


def test_a_folder_without_requests_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder with requests\.jsonl"):
        read_measured(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        read_measured(tmp_path / "none")


def test_several_replicas_are_refused(folder: Path) -> None:
    write_meta(folder, engine_kwargs={"data_parallel_size": 2})

    with pytest.raises(InputError, match="data_parallel_size is 2"):
        read_measured(folder)


def test_a_bench_result_tells_requests(tmp_path: Path) -> None:
    result = run(write_trace(tmp_path / "t.jsonl"))
    record = bench_record(result)
    record["output_lens"][4] = 0
    (tmp_path / "bench.json").write_text(json.dumps(record))

    found = read_measured(tmp_path / "bench.json")

    assert len(found.requests) == 39
    assert found.settings == {"model": "llama-3.1-8b"}
    assert found.requests.e2el_ms[0] == pytest.approx(result.requests["e2el_ms"][0])
    assert "1 failed requests" in found.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"itls": None}, "no list 'itls'"),
        ({"itls": [[0.1, "x"]] * 40}, "request 1: itls must be a list of seconds"),
        ({"ttfts": [0.1]}, "ttfts has 1 values, input_lens has 40"),
        ({"start_times": None}, "no list 'start_times'"),
        ({"ttfts": [-1.0] * 40}, "request 1: ttfts is -1.0"),
        ({"output_lens": [0] * 40}, "no request was answered"),
    ],
)
def test_a_bad_bench_result_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    record = bench_record(run(write_trace(tmp_path / "t.jsonl"))) | changes
    (tmp_path / "bench.json").write_text(json.dumps(record))

    with pytest.raises(InputError, match=message):
        read_measured(tmp_path / "bench.json")


def test_a_bench_result_without_start_times_says_why_it_will_not_do(tmp_path: Path) -> None:
    record = bench_record(run(write_trace(tmp_path / "t.jsonl")))
    del record["start_times"]
    (tmp_path / "bench.json").write_text(json.dumps(record))

    with pytest.raises(InputError, match="arrivals are unknown"):
        read_measured(tmp_path / "bench.json")


def test_a_server_log_tells_arguments_and_pool(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)

    found, notes = read_server_log(tmp_path / "log")

    assert found == {
        "max_num_seqs": 128, "enable_prefix_caching": False, "max_num_batched_tokens": 2048, "model": "llama-3.1-8b",
        "async_scheduling": True, "num_gpu_blocks_override": 29875,
    }  # fmt: skip
    assert notes == []


def test_a_pool_in_blocks_is_read_and_a_log_without_any_line_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("INFO # GPU blocks: 1,234, # CPU blocks: 0\n")
    (tmp_path / "other").write_text("hello\n")

    assert read_server_log(tmp_path / "log")[0]["num_gpu_blocks_override"] == 1234
    with pytest.raises(InputError, match="no line of a vLLM server's start-up"):
        read_server_log(tmp_path / "other")
    with pytest.raises(InputError, match="No such file"):
        read_server_log(tmp_path / "none")


def test_checkpoints_have_our_names_and_versions_their_scheduler() -> None:
    assert known_model("meta-llama/Llama-3.1-8B-Instruct") == "llama-3.1-8b"
    assert known_model("acme/mystery-7b") is None
    assert [is_async(version) for version in ("0.13.0", "0.14.0rc1", "v1.0", "main")] == [
        False,
        True,
        True,
        None,
    ]
