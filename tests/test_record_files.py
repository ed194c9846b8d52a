"""What the recorder leaves behind: logs, traces, manifests."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import InputError
from kvsim.manifest import CaseConfig, read_manifest
from kvsim.record_files import LogFile, add_case, config_row, read_cases, store_trace
from kvsim.record_flags import make_config
from kvsim.record_trace import TraceRow, read_rows


def config(**changes: Any) -> CaseConfig:  # Any: settings of several types
    base = make_config({"num_blocks": 8, "max_model_len": 64}, None)
    return CaseConfig.read(config_row(base) | {"cost_a": 1.0, "cost_b": 0.5, "cost_c": 0.0} | changes, "test")


def request(index: int, arrival: float = 0.0, prompt: int = 4, output: int = 2, **more: Any) -> TraceRow:
    return TraceRow(index=index, arrival=arrival, prompt_len=prompt, output_len=output, **more)


def test_a_log_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "a.jsonl.gz")
    log.write({"kind": "header", "x": [1, 2]})
    assert not (tmp_path / "logs" / "a.jsonl.gz").exists()

    sha256 = log.keep()

    text = gzip.decompress((tmp_path / "logs" / "a.jsonl.gz").read_bytes())
    assert text == b'{"kind":"header","x":[1,2]}\n'
    assert sha256 == hashlib.sha256(text).hexdigest()


def test_a_discarded_log_leaves_nothing(tmp_path: Path) -> None:
    LogFile(tmp_path / "a.jsonl.gz").discard()

    assert not list(tmp_path.iterdir())


def test_traces_of_one_name_and_other_content_are_both_kept(tmp_path: Path) -> None:
    first, _ = store_trace(tmp_path, "t", [request(0)])
    again, _ = store_trace(tmp_path, "t", [request(0)])
    other, sha256 = store_trace(tmp_path, "t", [request(0), request(1)])

    assert first == again == "traces/t.jsonl.gz"
    assert other == f"traces/t-{sha256[:8]}.jsonl.gz"
    assert len(read_rows(tmp_path / first, None)) == 1


def test_cases_gather_in_one_manifest(tmp_path: Path) -> None:
    case = {"trace": "traces/t.jsonl.gz", "log": "logs/a.jsonl.gz", "config": config_row(config())}
    add_case(tmp_path, "a", case, "0.32.0")
    add_case(tmp_path, "b", case, "0.32.0")

    assert [case.name for case in read_manifest(tmp_path / "manifest.json")] == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_cases_of_another_vllm_stay_apart(tmp_path: Path) -> None:
    add_case(tmp_path, "a", {}, "0.32.0")

    with pytest.raises(InputError, match=r"holds cases of vLLM 0\.32\.0, this is 0\.33\.0"):
        read_cases(tmp_path, "0.33.0")
