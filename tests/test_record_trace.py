"""Trace rows of the recorder: token ids, and what is wrong with a row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import InputError
from kvsim.manifest import read_manifest
from kvsim.record_files import store_trace
from kvsim.record_trace import TraceRow, read_rows

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracle"


def oracle() -> Path:
    if not ORACLE.is_dir():
        pytest.skip("../shared/oracle is absent")
    return ORACLE


def request(index: int, arrival: float = 0.0, prompt: int = 4, output: int = 2, **more: Any) -> TraceRow:
    return TraceRow(index=index, arrival=arrival, prompt_len=prompt, output_len=output, **more)


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_a_hash_id_stands_for_tokens_and_the_rest_is_private() -> None:
    row = request(3, prompt=6, hash_ids=(7,))

    assert row.prompt(4) == [28, 29, 30, 31, 2**40 + 3 * 2**22 + 4, 2**40 + 3 * 2**22 + 5]


def test_the_last_hash_id_is_cut_by_the_end_of_the_prompt() -> None:
    assert request(0, prompt=6, hash_ids=(1, 2)).prompt(4) == [4, 5, 6, 7, 8, 9]


def test_outputs_are_private_unless_the_trace_says_them() -> None:
    row = request(2, output_token_ids=(5,))

    assert [row.output_token(0), row.output_token(1)] == [5, 2**50 + 2 * 2**22 + 1]


def test_a_row_is_written_as_it_was_read(tmp_path: Path) -> None:
    text = (
        '{"arrival_s":0.5,"prompt_len":5,"output_len":2,"hash_ids":[1,2],"priority":1}\n'
        '{"arrival_s":1.0,"prompt_token_ids":[4,4],"output_len":1}\n'
    )
    rows = read_rows(write_lines(tmp_path / "t.jsonl", text), 4)

    assert "".join(row.line() for row in rows) == text


def test_fields_that_vllm_has_no_use_for_are_left_out(tmp_path: Path) -> None:
    row = {"arrival_s": 0, "prompt_len": 1, "output_len": 1, "session": 4, "parent": -1, "samples": 1}

    (read,) = read_rows(write_lines(tmp_path / "t.jsonl", row), None)

    assert read.line() == '{"arrival_s":0.0,"prompt_len":1,"output_len":1}\n'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrival_s": -1}, r"t.jsonl row 1: arrival_s must be a number of seconds ≥ 0, got -1"),
        ({"arrival_s": True}, "arrival_s must be a number"),
        ({"prompt_len": 2.5}, "prompt_len must be an integer ≥ 0, got 2.5"),
        ({"output_len": 0}, "output_len must be an integer ≥ 1, got 0"),
        ({"output_len": 2**22}, r"prompt_len \+ output_len must be at most 4194304"),
        ({"hash_ids": [1, 2, 3]}, "3 ids of 4 tokens for a prompt_len of 8; it can have at most 2"),
        ({"hash_ids": [2**38]}, "hash_ids must hold integers below 274877906944"),
        ({"hash_ids": "ab"}, "hash_ids must be a list of integers ≥ 0"),
        ({"prompt_token_ids": [1]}, "prompt_len is 8; prompt_token_ids has 1"),
        ({"priority": "high"}, "priority must be an integer, got 'high'"),
        ({"parent": 0}, "only rows with an arrival can be recorded"),
        ({"samples": 2}, "samples is 2; only one answer"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    row = {"arrival_s": 0.0, "prompt_len": 8, "output_len": 1} | changes

    with pytest.raises(InputError, match=message):
        read_rows(write_lines(tmp_path / "t.jsonl", row), 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the trace has no rows"),
        ("{\n", "row 1: not JSON"),
        ("[1]\n", "row 1: must be an object, got list"),
        ('{"arrival_s":0,"prompt_len":4,"output_len":1,"hash_ids":[0]}\n', "need --hash-block-tokens"),
    ],
)
def test_a_bad_trace_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_rows(write_lines(tmp_path / "t.jsonl", text), None)


def test_a_damaged_trace_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-9])

    with pytest.raises(InputError, match="damaged or cut short"):
        read_rows(tmp_path / "t.jsonl.gz", None)
    with pytest.raises(InputError, match="there is no such file"):
        read_rows(tmp_path / "none.jsonl", None)


@pytest.mark.shared
def test_the_shared_traces_are_written_back_byte_for_byte(tmp_path: Path) -> None:
    cases = {case.trace: case for case in read_manifest(oracle() / "manifest.json")}
    for trace, case in cases.items():
        name, sha256 = store_trace(tmp_path, trace.stem, read_rows(trace, case.config.hash_block_tokens))

        assert sha256 == case.trace_sha256
        assert gzip.decompress((tmp_path / name).read_bytes()) == gzip.decompress(trace.read_bytes())
