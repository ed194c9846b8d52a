"""Every format is told by its content and read as what it says."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvsim.request import IntColumn
from kvsim.traces import Trace, format_names, read_trace
from kvsim.traces.reader import Options
from kvsim.traces.source import Source

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.9000001,7,3\r\n2023-11-17 00:00:00.0000002,8,4"
SPLITWISE = (
    "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    "0,0,0,0.0,1,7,3\n1,0,0,1.5,1,8,4\n"
)
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,7,3,10,Conversation log\n45,GPT-4,9,0,9,API log\n118,GPT-4,8,4,12,API log\n"
)
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,7,3\n1.5,8,4\n"
LENGTHS = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n7,3,10,2.3\n8,4,12,2.0\n"


Content = str | bytes | Sequence[Mapping[str, object]] | Mapping[str, object]


def save(folder: Path, name: str, content: Content) -> Path:
    """Write text, bytes, a JSON document or JSON lines."""
    if isinstance(content, Mapping):
        content = json.dumps(content)
    if not isinstance(content, str | bytes):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lengths(trace: Trace) -> list[tuple[int, int]]:
    return list(zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True))


def ids(trace: Trace) -> list[list[int]]:
    return [trace.ids(row).tolist() for row in range(len(trace))]


def listed(column: IntColumn | None) -> list[int]:
    assert column is not None
    return [int(value) for value in column]


@pytest.mark.parametrize(
    ("content", "arrival"),
    [
        (AZURE, [0.0, 0.1000001]),
        (SPLITWISE, [0.0, 1.5]),
        (BURST, [5.0, 118.0]),
        (VIDUR, [0.0, 1.5]),
        (LENGTHS, [0.0, 0.0]),
    ],
)
def test_csv_formats_are_told_by_their_headers(tmp_path: Path, content: str, arrival: list[float]) -> None:
    trace = read_trace(save(tmp_path, "t", content))

    assert lengths(trace) == [(7, 3), (8, 4)]
    assert trace.arrival.tolist() == pytest.approx(arrival, abs=1e-12)


@pytest.mark.parametrize("content", [AZURE, SPLITWISE, BURST, VIDUR, LENGTHS])
def test_gzip_and_a_byte_order_mark_change_nothing(tmp_path: Path, content: str) -> None:
    plain = read_trace(save(tmp_path, "plain", content))
    packed = read_trace(save(tmp_path, "packed", gzip.compress(b"\xef\xbb\xbf" + content.encode())))

    assert packed.sha256() == plain.sha256()


def test_failed_burstgpt_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    trace = read_trace(save(tmp_path, "t.csv", BURST))

    assert trace.notes == ("1 failed requests (0 response tokens) dropped",)


def test_mooncake_counts_milliseconds_and_cuts_the_last_block(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 513, "output_length": 2, "hash_ids": [0, 1]},
        {"timestamp": 27, "input_length": 512, "output_length": 3, "hash_ids": [0]},
    ]

    trace = read_trace(save(tmp_path, "t.jsonl", rows))

    assert (trace.arrival.tolist(), trace.block_tokens) == ([0.0, 0.027], 512)
    assert ids(trace) == [[0, 1], [0]]


def turn(chat: int, before: int, time: float, prompt: int, *hash_ids: int) -> dict[str, object]:
    chats = {"chat_id": chat, "parent_chat_id": before, "type": "text", "turn": 1, "timestamp": time}
    return {**chats, "input_length": prompt, "output_length": 5, "hash_ids": list(hash_ids)}


def test_turns_of_a_bailian_chat_are_one_session_and_keep_their_times(tmp_path: Path) -> None:
    rows = [turn(3, -1, 0.5, 20, 4, 5), turn(9, -1, 0.7, 16, 6), turn(5, 3, 9.5, 40, 4, 8, 9)]

    trace = read_trace(save(tmp_path, "t.jsonl", rows))

    assert listed(trace.session) == [0, 1, 0]
    assert (trace.parent, trace.block_tokens, trace.arrival.tolist()) == (None, 16, [0.5, 0.7, 9.5])


def test_llmservingsim_has_full_blocks_of_16_or_token_ids(tmp_path: Path) -> None:
    row = {"input_toks": 17, "output_toks": 4, "arrival_time_ns": 2_500_000_000}

    hashed = read_trace(save(tmp_path, "h.jsonl", [row | {"hash_ids": [3]}]))
    tokens = read_trace(save(tmp_path, "t.jsonl", [row | {"input_tok_ids": list(range(17))}]))

    assert (hashed.arrival.tolist(), hashed.block_tokens, ids(hashed)) == ([2.5], 16, [[3]])
    assert (tokens.arrival.tolist(), tokens.block_tokens, ids(tokens)) == ([2.5], 1, [list(range(17))])


def session(*requests: Mapping[str, object]) -> dict[str, object]:
    return {"id": "x", "block_size": 64, "hash_id_scope": "local", "requests": list(requests)}


def asked(prompt: int | None, output: int | None, think: float | None, *hash_ids: int) -> dict[str, object]:
    return {"t": 0, "type": "n", "in": prompt, "out": output, "think_time": think, "hash_ids": list(hash_ids)}


def test_sessions_are_closed_loop_with_sub_agents_in_their_place_and_ids_of_their_own(tmp_path: Path) -> None:
    inner = {"type": "subagent", "requests": [asked(64, 2, 0.5, 7)]}
    agent = {"type": "subagent", "requests": [asked(70, 3, 1.5, 5), inner]}
    save(tmp_path, "a.json", session(asked(64, 1, 0.0, 0), agent, asked(129, 4, 2.5, 0, 1)))
    save(tmp_path, "b.json.gz", gzip.compress(json.dumps(session(asked(64, 9, 0.0, 0))).encode()))

    trace = read_trace(tmp_path)

    assert lengths(trace) == [(64, 1), (70, 3), (64, 2), (129, 4), (64, 9)]
    assert ids(trace) == [[0], [5], [7], [0, 1], [8]]
    assert listed(trace.session) == [0, 0, 0, 0, 1]
    assert listed(trace.parent) == [-1, 0, 1, 2, -1]
    assert trace.think is not None
    assert trace.think.tolist() == [0.0, 1.5, 0.5, 2.5, 0.0]
    assert trace.notes == (
        "the file has no arrival times and no rate was given: all sessions start at t = 0",
    )


def test_requests_that_were_cut_off_are_handled_and_counted(tmp_path: Path) -> None:
    cut = session(asked(64, 0, None, 0), asked(None, 3, 1.0), asked(0, 3, 1.0), asked(65, None, 2.0, 0))

    trace = read_trace(save(tmp_path, "a.json", cut))

    assert lengths(trace) == [(64, 1), (65, 1)]
    assert listed(trace.parent) == [-1, 0]
    assert trace.notes[:3] == (
        "2 requests without prompt tokens dropped",
        "2 requests without output tokens counted with one",
        "1 requests without think_time sent at once",
    )


def test_session_starts_are_drawn_at_a_rate(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path, f"{number}.json", session(asked(64, 1, 0.0, 0), asked(64, 1, 1.0, 0)))

    trace = read_trace(tmp_path, rate=0.5, arrival="uniform")

    assert trace.arrival.tolist() == [0.0, 0.0, 2.0, 2.0, 4.0, 4.0, 6.0, 6.0]
    assert listed(trace.parent) == [-1, 0, -1, 2, -1, 4, -1, 6]
    assert trace.notes == ("session starts drawn: uniform at 0.5/s, seed 0",)


WINDOWS = "0,0,0,,0,0\n600,0.5,2.0,Gamma,0.25,8.0\n1200,0.1,0.9,Weibull,1.1,3.0\n"
DATASET = {
    "0": {"input_tokens": "{100: 0.5, 200: 0.5}", "output_tokens": "{7: 1.0}", "reason_ratio": "{0.5: 1.0}"},
    "21600": {"input_tokens": "{}", "output_tokens": "{}"},
}


def servegen(folder: Path) -> Path:
    for client in (0, 3):
        save(folder, f"data/chunk-{client}-trace.csv", WINDOWS)
        save(folder, f"data/chunk-{client}-dataset.json", DATASET)
    save(folder, "data/chunk-4-trace.csv", "0,0,0,,0,0\n")
    return folder


def test_servegen_windows_have_their_rate_and_their_lengths(tmp_path: Path) -> None:
    trace = read_trace(servegen(tmp_path))

    counts = np.histogram(trace.arrival, [0, 600, 1200, 1800])[0]
    assert counts.tolist() == [0, 2 * 300, 2 * 60]
    assert set(lengths(trace)) == {(100, 7), (200, 7)}
    assert trace.prompt_tokens.mean() == pytest.approx(150, abs=10)


def test_servegen_archive_and_folder_are_the_same_and_the_seed_counts(tmp_path: Path) -> None:
    servegen(tmp_path / "day")
    with tarfile.open(tmp_path / "day.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "day", "day")

    packed, folder = read_trace(tmp_path / "day.tar.gz", seed=5), read_trace(tmp_path / "day", seed=5)

    assert packed.sha256() == folder.sha256()
    assert packed.sha256() != read_trace(tmp_path / "day", seed=6).sha256()


def test_servegen_rates_are_scaled_to_a_mean(tmp_path: Path) -> None:
    trace = read_trace(servegen(tmp_path), rate=2.0)

    assert len(trace) == pytest.approx(2.0 * 1800, abs=4)


BENCH = {
    "request_rate": 4.0,
    "burstiness": 0.25,
    "input_lens": [7, 9, 8],
    "output_lens": [3, 0, 4],
    "ttfts": [1, 0, 1],
}


def test_a_vllm_bench_result_has_start_times_in_any_order(tmp_path: Path) -> None:
    trace = read_trace(save(tmp_path, "r.json", BENCH | {"start_times": [101.5, 100.5, 100.0]}))

    assert (trace.arrival.tolist(), lengths(trace)) == ([0.0, 1.5], [(8, 4), (7, 3)])
    assert trace.notes[0] == "1 failed requests (0 output tokens) dropped"


def test_a_vllm_bench_result_without_start_times_is_drawn_at_its_request_rate(tmp_path: Path) -> None:
    path = save(tmp_path, "r.json", BENCH)

    assert read_trace(path).notes[1] == "arrivals drawn: gamma:2.0 at 4/s, seed 0"
    assert read_trace(path, rate=9).notes[1] == "arrivals drawn: gamma:2.0 at 9/s, seed 0"
    infinite = read_trace(save(tmp_path, "i.json", BENCH | {"request_rate": "inf"}))
    assert infinite.arrival.tolist() == [0.0, 0.0]


def test_rows_with_hash_ids_need_the_tokens_of_an_id(tmp_path: Path) -> None:
    rows = [
        {"arrival_s": 0.0, "prompt_len": 10, "output_len": 1, "hash_ids": [3, 4], "priority": 2},
        {"arrival_s": 0.5, "prompt_len": 9, "output_len": 1},
    ]

    trace = read_trace(save(tmp_path, "t.jsonl", rows), hash_block_tokens=8)

    assert (ids(trace), trace.block_tokens, listed(trace.priority)) == ([[3, 4], []], 8, [2, 0])


def test_a_row_may_say_the_tokens_of_an_id_for_all_that_follow(tmp_path: Path) -> None:
    row = {"arrival_s": 0.0, "prompt_len": 10, "output_len": 1, "hash_ids": [3, 4]}

    trace = read_trace(save(tmp_path, "t.jsonl", [row | {"hash_block_tokens": 8}, row]))

    assert (ids(trace), trace.block_tokens) == ([[3, 4], [3, 4]], 8)


def test_one_row_of_token_ids_puts_the_whole_trace_in_tokens(tmp_path: Path) -> None:
    rows = [
        {"arrival_s": 0.0, "prompt_len": 6, "output_len": 1, "hash_ids": [3, 5]},
        {"arrival_s": 0.1, "prompt_token_ids": [12, 13, 14, 99], "output_len": 2},
        {"arrival_s": 0.2, "prompt_len": 9, "output_len": 1, "hash_ids": [3]},
    ]

    trace = read_trace(save(tmp_path, "t.jsonl", rows), hash_block_tokens=4)

    assert ids(trace) == [[12, 13, 14, 15, 20, 21], [12, 13, 14, 99], [12, 13, 14, 15]]
    assert (trace.block_tokens, trace.prompt_tokens.tolist()) == (1, [6, 4, 9])


NAMES = {"arrival": "ts", "prompt": "in", "output": "out", "priority": "p", "session": "user", "samples": "n"}
TABLE: list[dict[str, object]] = [
    {"ts": 1.5e-05, "in": 7, "out": 3, "p": 1, "user": "b", "n": 2, "x": "é"},
    {"ts": 2.0, "in": 8, "out": 4, "p": 0, "user": "a", "n": 1, "x": ""},
    {"ts": 3.0, "in": 9, "out": 5, "p": 0, "user": "b", "n": 1, "x": ","},
]


def as_csv() -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(TABLE[0]))
    writer.writeheader()
    writer.writerows(TABLE)
    return text.getvalue()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("named", [True, False])
def test_any_table_is_read_by_the_names_of_its_columns(tmp_path: Path, kind: str, named: bool) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "table"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(TABLE), path)
    else:
        content: Content = as_csv() if kind == "csv" else TABLE
        save(tmp_path, "table", content)

    trace = read_trace(path, columns=NAMES, format=kind if named else None)

    assert (trace.arrival.tolist(), lengths(trace)) == ([1.5e-05, 2.0, 3.0], [(7, 3), (8, 4), (9, 5)])
    assert [listed(column) for column in (trace.priority, trace.session, trace.samples)] == [
        [1, 0, 0],
        [0, 1, 0],
        [2, 1, 1],
    ]


def test_a_table_may_tell_the_time_of_day_or_no_time(tmp_path: Path) -> None:
    path = save(tmp_path, "t.csv", "when,in,out\n2024-05-01T10:00:00.5,7,3\n2024-05-01T10:00:02,8,4\n")
    lengths_only = {"prompt": "in", "output": "out"}

    assert read_trace(path, columns=lengths_only | {"arrival": "when"}).arrival.tolist() == [0.0, 1.5]
    assert read_trace(path, columns=lengths_only).arrival.tolist() == [0.0, 0.0]


def test_lengths_get_arrivals_from_a_rate_and_say_so(tmp_path: Path) -> None:
    path = save(tmp_path, "t.csv", LENGTHS)

    assert read_trace(path, rate=2, arrival="uniform").arrival.tolist() == [0.0, 0.5]
    assert read_trace(path, rate=2, seed=3).notes == ("arrivals drawn: poisson at 2/s, seed 3",)
    assert read_trace(path).notes == (
        "the file has no arrival times and no rate was given: all requests arrive at t = 0",
    )


def test_a_process_replaces_the_arrivals_a_file_has_at_their_own_rate(tmp_path: Path) -> None:
    trace = read_trace(save(tmp_path, "t.csv", VIDUR), arrival="uniform")

    assert trace.arrival.tolist() == [0.0, 1.5]
    assert trace.notes == ("arrivals drawn: uniform at 0.666667/s, seed 0",)


def test_format_names_are_different() -> None:
    assert len(set(format_names())) == len(format_names()) == 16


README = (Path(__file__).resolve().parents[1] / "traces" / "README.md").read_text("utf-8")


def test_the_readme_lists_every_format() -> None:
    first_cells = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]

    assert {name.strip(" `") for cell in first_cells for name in cell.split(",")} >= set(format_names())


def test_the_reader_of_the_readme_works(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(README.split("```python\n")[-1].split("```")[0], names)

    source = Source(save(tmp_path, "t.csv", "t,in,out\n1.5,8,4\n0.5,7,3\n"))
    found = names["FORMAT"].read(source, Options())

    assert names["FORMAT"].matches(source.head())
    assert lengths(found.trace.checked(found.origin)) == [(7, 3), (8, 4)]
