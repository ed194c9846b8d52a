"""Bad trace files end in one line that names file, row, field and value."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.traces import Trace, format_names, read_trace, write_trace

VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,1,1\n"
SPLITWISE = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
MOON = '{"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": [0]}\n'
CHAT = (
    '{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0, "input_length": 17, "output_length": 1, '
    '"type": "text", "turn": 1, "hash_ids": [1, 2]}\n'
)
SIM = '{"input_toks": 32, "output_toks": 2, "arrival_time_ns": 0, "hash_ids": [1, 2]}\n'
ROW = '{"arrival_s": 0, "prompt_len": 5, "output_len": 2}\n'
BENCH = '{"request_rate": "inf", "input_lens": [5, 6], "output_lens": %s, "start_times": %s}'
SESSION = '{"block_size": 64, "requests": [%s]}'


def refused(path: Path, **options: object) -> str:
    """Return the one line that reading the file fails with."""
    with pytest.raises(InputError) as caught:
        read_trace(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def save(folder: Path, content: str | bytes, name: str = "t") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            VIDUR + "0,5,1\n1,-5,1\n",
            "t row 2: num_prefill_tokens is -5; it must be an integer from 1 to 2147483647",
        ),
        (VIDUR + "0,5,1\n1,5,0\n", "t row 2: num_decode_tokens is 0; it must be an integer from 1"),
        (VIDUR + "nan,5,1\n", "t row 1: arrived_at is nan; it must be a finite number, at least 0"),
        (VIDUR + "0,nan,1\n", "t row 1: num_prefill_tokens is nan"),
        (VIDUR + "-1,5,1\n", "t row 1: arrived_at is -1"),
        (VIDUR + "inf,5,1\n", "t row 1: arrived_at is inf"),
        (VIDUR + "0,5,1\n0,5.5,1\n", "t row 2: num_prefill_tokens is 5.5"),
        (VIDUR + "0,99999999999999999999,1\n", "t row 1: num_prefill_tokens is 1e+20"),
        (VIDUR + "0,5,1\n0,many,1\n", "t row 2: num_prefill_tokens is 'many'; it must be a number"),
        (VIDUR + "0,5,1\n0,,1\n", "t row 2: num_prefill_tokens is ''"),
        (VIDUR + "0,5,1\n0,5\n", "t row 2: 2 fields where the header has 3: '0,5'"),
        (VIDUR + "0,5,1\n" + MOON, "t row 2: 4 fields where the header has 3"),
        (VIDUR, "t: the trace has no requests"),
        (
            AZURE + "2023-11-16 18:99:46,1,1\n",
            "t row 2: TIMESTAMP is '2023-11-16 18:99:46'; it must be a time like",
        ),
        (AZURE + "yesterday,1,1\n", "t row 2: TIMESTAMP is 'yesterday'"),
        (SPLITWISE + "0,0,0,0.5,1,0,3\n", "t row 1: prompt_size is 0"),
        (BURST + "5,m,5,0,5,l\n6,m,0,4,5,l\n", "t row 2: Request tokens is 0"),
        (BURST + "5,m,5,-1,5,l\n", "t row 1: Response tokens is -1"),
        (BURST + "5,m,5,0,5,l\n", "t: the trace has no requests"),
        (
            "a,b\n1,2\n",
            "t: not a trace format that is known (csv with a, b); name the columns with --columns",
        ),
        (VIDUR[:-1] + '"\n0,5,1\n', "t: not a trace format that is known"),
        (b"\xc2", "t: not UTF-8 text: unexpected end of data, byte 0xc2"),
        ("", "t: the file is empty"),
        (" \n\n", "t: the file is empty"),
        (gzip.compress(b"", mtime=0), "t: the file is empty"),
        (b"\xff\xfea\x00,\x00", "t: not UTF-8 text: invalid start byte, byte 0xff"),
        ((VIDUR + "0,5,1\n").encode() * 9000 + b"0,5,\xe9\n", "t: not UTF-8 text"),
        (MOON.encode() * 9000 + b'{"timestamp": "\xe9"}\n', "t: not UTF-8 text"),
        (b"\x1f\x8bnot gzip at all", "t: the gzip data is damaged or cut short"),
        (b"PAR1 and no more", "t: not a Parquet file"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in refused(save(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (MOON + "{\n", "t row 2: not JSON"),
        (MOON + "[1]\n", "t row 2: '[1]' is not a JSON object"),
        (MOON + ROW, "t row 2: no field 'timestamp'; the fields are arrival_s, prompt_len, output_len"),
        (MOON + MOON.replace("5", '"5"'), "t row 2: input_length is '5'; it must be an integer"),
        (MOON + MOON.replace("5", "2.5"), "t row 2: input_length is 2.5; it must be an integer"),
        (MOON + MOON.replace("5", "null"), "t row 2: input_length is None"),
        (MOON + MOON.replace("5", "true"), "t row 2: input_length is True"),
        (MOON + MOON.replace("5", "9" * 30), "t row 2: input_length is 9999"),
        (MOON + MOON.replace(": 0", ": NaN"), "t row 2: timestamp is nan"),
        (MOON + MOON.replace(": 2,", ": 0,"), "t row 2: output_length is 0"),
        (
            MOON + MOON.replace("[0]", "[0, 1]"),
            "t row 2: hash_ids has 2 ids for 5 prompt tokens; it must have ceil",
        ),
        (MOON + MOON.replace("[0]", "[]"), "t row 2: hash_ids has 0 ids for 5 prompt tokens"),
        (MOON + MOON.replace("[0]", "[0.5]"), "t row 2: hash_ids holds 0.5; it must hold integers"),
        (MOON + MOON.replace("[0]", f"[{2**64}]"), f"t row 2: hash_ids holds {2**64}"),
        (MOON + MOON.replace("[0]", "[-3]"), "t row 2: hash_ids holds -3"),
        (MOON + MOON.replace("[0]", "7"), "t row 2: hash_ids is 7; it must be a list"),
        (
            MOON + MOON.replace("5", "600").replace("[0]", "[3, 0]"),
            "t row 2: hash_ids 0 follows 3, but in t row 1 it",
        ),
        (CHAT + CHAT, "t row 2: chat_id 1 was there before"),
        (
            CHAT + CHAT.replace(": 1,", ": 2,", 1).replace("17", "9"),
            "t row 2: hash_ids has 2 ids for 9 prompt tokens",
        ),
        (
            CHAT + CHAT.replace(": 1,", ": 2,", 1).replace("[1, 2]", "[2]"),
            "t row 2: hash_ids 2 follows nothing",
        ),
        (
            SIM + SIM.replace("32", "31"),
            "t row 2: hash_ids has 2 ids for 31 prompt tokens; it must have floor(31 / 16)",
        ),
        (
            SIM + SIM.replace("[1, 2]", "[2, 1]"),
            "t row 2: hash_ids 2 follows nothing, but in t row 1 it follows 1",
        ),
        (ROW + ROW.replace("arrival_s", "at"), "t row 2: no field 'arrival_s'"),
        (ROW + ROW.replace("5", "0"), "t row 2: prompt_len is 0"),
        (ROW + ROW.replace("}", ', "hash_ids": [1]}'), "t row 2: hash_ids need --hash-block-tokens"),
        (
            ROW + ROW.replace("5,", '5, "prompt_token_ids": [1],'),
            "t row 2: prompt_len is 5; prompt_token_ids has 1",
        ),
        (ROW + ROW.replace("}", ', "parent": 1}'), "t row 2: parent is 1; it must be −1 or the number"),
    ],
)
def test_a_wrong_json_row_is_refused(tmp_path: Path, content: str, message: str) -> None:
    assert message in refused(save(tmp_path, content))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("8", "row 1: hash_block_tokens is 8, and 4 was said before"),
        ("0", "hash_block_tokens must be at least 1, got 0"),
        ('"4"', "hash_block_tokens"),
    ],
)
def test_another_size_of_hash_ids_than_was_said_is_refused(tmp_path: Path, size: str, message: str) -> None:
    path = save(tmp_path, ROW.replace("}", f', "hash_block_tokens": {size}}}'))

    assert message in refused(path, hash_block_tokens=4)


@pytest.mark.parametrize(
    ("hashes", "message"), [("[1, 2, 3]", "at most 2"), (f"[{2**62}]", "integers from 0 to")]
)
def test_hash_ids_beyond_the_prompt_or_beyond_all_tokens_are_refused(
    tmp_path: Path, hashes: str, message: str
) -> None:
    path = save(tmp_path, ROW.replace("}", f', "hash_ids": {hashes}}}'))

    assert message in refused(path, hash_block_tokens=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BENCH % ("[5]", "[0, 1]"), "t: output_lens has 1 values, input_lens has 2"),
        (BENCH % ("[5, 6]", "[0]"), "t: start_times has 1 values"),
        (BENCH % ("[5, null]", "[0, 1]"), "t request 2: output_lens is None"),
        (BENCH % ("7", "[0, 1]"), "t: no list 'output_lens'; --save-detailed writes it"),
        (BENCH % ("[0, -6]", "[0, 1]"), "t request 2: output_lens is -6"),
        (BENCH % ("[0, 0]", "[0, 1]"), "t: the trace has no requests"),
        ((BENCH % ("[5, 6]", "[0, 1]"))[:-1], "t: not JSON"),
        (SESSION % "", "t: the trace has no requests"),
        (SESSION.replace("64", "32") % "", "t: block_size is 32; it must be 64"),
        (SESSION % '{"in": 64, "out": 1}', "t request 1: no field 'hash_ids'"),
        (
            SESSION % '{"in": 64, "out": 1, "hash_ids": []}',
            "t request 1: hash_ids has 0 ids for 64 prompt tokens",
        ),
        (SESSION % '{"in": "x", "out": 1, "hash_ids": []}', "t request 1: in is 'x'; it must be an integer"),
        (SESSION % '{"in": 5, "out": 1, "hash_ids": [], "think_time": -2}', "t request 1: think_time is -2"),
        (
            SESSION % '{"type": "subagent", "requests": 3}',
            "t: `requests` of a sub-agent is 3; it must be a list",
        ),
        (SESSION % "3", "t: a request is 3; it must be an object"),
        (
            SESSION % '{"in": 64, "out": 1, "hash_ids": [1]}, {"in": 128, "out": 1, "hash_ids": [2, 1]}',
            "t request 2: hash_ids 1 follows 2, but in t request 1 it follows nothing",
        ),
        (SESSION % '{"in": 64, "out": 1, "hash_ids": [-1]}', "t: hash_ids holds -1"),
        ('{"timestamp\\n": 0}', r"t: not a trace format that is known (json with timestamp\n)"),
    ],
)
def test_a_wrong_json_document_is_refused(tmp_path: Path, content: str, message: str) -> None:
    assert message in refused(save(tmp_path, content))


@pytest.mark.parametrize("name", ["azure", "mooncake", "vllm-bench", "kvsim", "kv-cache-tester", "rows"])
def test_a_file_of_another_format_than_named_is_refused(tmp_path: Path, name: str) -> None:
    message = refused(save(tmp_path, VIDUR + "0,5,1\n"), format=name)

    assert message.startswith("t")
    if name == "azure":
        assert message == (
            "t: no column 'TIMESTAMP'; the columns are arrived_at, num_decode_tokens, num_prefill_tokens"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"format": "vidor"},
            "unknown trace format 'vidor' (did you mean 'vidur'?); known: kvsim, rows, azure",
        ),
        ({"columns": {"arrival": "arrived_at"}}, "--columns must name 'prompt'"),
        (
            {"columns": {"prompt": "p", "output": "num_decode_tokens"}},
            "t: no column 'p'; the columns are arrived_at",
        ),
        (
            {"columns": {"promt": "p"}},
            "--columns: no column 'promt'; the columns are arrival, prompt, output",
        ),
        (
            {"columns": {"prompt": "x"}, "format": "azure"},
            "--columns goes with a csv, jsonl or parquet table",
        ),
        ({"format": "csv"}, "--columns must name 'prompt'"),
        ({"hash_block_tokens": 16}, "--hash-block-tokens goes with JSONL rows of hash_ids, not with vidur"),
        ({"rate": 2.0}, "has arrival times of its own; a rate needs an arrival process"),
        ({"rate": float("nan")}, "rate must be a positive number"),
        ({"rate": 0.0}, "rate must be a positive number"),
        ({"hash_block_tokens": 0}, "hash_block_tokens must be at least 1, got 0"),
        ({"arrival": "pareto", "rate": 1.0}, "arrival process must be"),
        ({"arrival": "poisson"}, "arrival process 'poisson' needs a rate"),
    ],
)
def test_impossible_options_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    assert message in refused(save(tmp_path, VIDUR + "0,5,1\n"), **options)


def test_a_folder_without_traces_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "x", "notes.txt")

    assert "no traces in this folder" in refused(tmp_path)
    assert "there is no such file or folder" in refused(tmp_path / "nowhere")
    assert "Is a directory" in refused(tmp_path, format="azure")


def test_a_wrong_file_in_a_folder_of_sessions_is_named(tmp_path: Path) -> None:
    save(tmp_path, SESSION % '{"in": 5, "out": 1, "hash_ids": []}', "a.json")
    save(tmp_path, "{}", "b.json")

    assert refused(tmp_path) == "b.json: not a kv-cache-tester session: it has no list `requests`"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, VIDUR)
    path.chmod(0)

    assert "cannot be read" in refused(path)


@pytest.mark.parametrize(
    "content", [VIDUR + "0,5,1\n" * 9000, MOON * 9000, SESSION % ('{"in": 0}, ' * 9000 + '{"in": 0}')]
)
def test_gzip_that_is_cut_short_is_refused(tmp_path: Path, content: str) -> None:
    packed = gzip.compress(content.encode(), mtime=0)

    assert "t: the gzip data is damaged or cut short" in refused(save(tmp_path, packed[:-9]))
    assert "t: the gzip data is damaged or cut short" in refused(save(tmp_path, packed[: len(packed) // 2]))


def windows(folder: Path, trace: str, dataset: str | None) -> Path:
    save(folder, trace, "chunk-0-trace.csv")
    if dataset is not None:
        save(folder, dataset, "chunk-0-dataset.json")
    return folder


LENGTHS = json.dumps({"0": {"input_tokens": "{5: 1.0}", "output_tokens": "{5: 1.0}"}})


@pytest.mark.parametrize(
    ("trace", "dataset", "message"),
    [
        ("0,1,1,Gamma,1\n", LENGTHS, "chunk-0-trace.csv row 1: 5 fields; it must have 6"),
        ("0,x,1,Gamma,1,1\n", LENGTHS, "chunk-0-trace.csv row 1: could not convert"),
        (
            "0,-1,1,Gamma,1,1\n",
            LENGTHS,
            "chunk-0-trace.csv row 1: 0,-1,1,Gamma,1,1 must be finite and not negative",
        ),
        ("0,1,0,Gamma,1,1\n", LENGTHS, "CV and shape positive"),
        ("0,1,1,Pareto,1,1\n", LENGTHS, "family is 'Pareto'; it must be Gamma, Weibull or empty"),
        ("0,0,0,,0,0\n", LENGTHS, "no client sends any request"),
        ("0,1,1,Gamma,1,1\n", None, "chunk-0-dataset.json is missing or has no lengths"),
        ("0,1,1,Gamma,1,1\n", "{", "chunk-0-dataset.json: not a ServeGen dataset"),
        (
            "0,1,1,Gamma,1,1\n",
            LENGTHS.replace("5: ", "five: "),
            "chunk-0-dataset.json: not a ServeGen dataset",
        ),
        (
            "0,1,1,Gamma,1,1\n",
            '{"0": {"input_tokens": "{5: 1}"}}',
            "not a ServeGen dataset: KeyError: 'output_tokens'",
        ),
        ("0,1,1,Gamma,1,1\n", LENGTHS.replace("5: ", "0: "), "row 1: prompt_tokens is 0"),
    ],
)
def test_wrong_servegen_windows_are_refused(
    tmp_path: Path, trace: str, dataset: str | None, message: str
) -> None:
    assert message in refused(windows(tmp_path, trace, dataset))


def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    import tarfile

    windows(tmp_path, "0,1,1,Gamma,1,1\n", LENGTHS)
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(tmp_path / "chunk-0-dataset.json")
        archive.add(tmp_path / "chunk-0-trace.csv")

    data = (tmp_path / "t.tar").read_bytes()
    assert "t: the tar archive is damaged or cut short" in refused(save(tmp_path, data[:1700]))


def own(folder: Path) -> Path:
    trace = Trace(
        name="t", arrival=np.zeros(2), prompt_tokens=np.array([5, 6]), output_tokens=np.array([1, 2])
    )
    write_trace(trace.checked(), folder / "t.parquet")
    return folder / "t.parquet"


def test_foreign_or_newer_parquet_is_refused(tmp_path: Path) -> None:
    from pyarrow import parquet

    table = parquet.read_table(own(tmp_path))
    newer = table.replace_schema_metadata({"kvsim_trace": '{"version": 99}'})
    for name, content in {
        "foreign": table.replace_schema_metadata({}),
        "newer": newer,
        "short": table.drop_columns("arrival"),
    }.items():
        parquet.write_table(content, tmp_path / name)

    assert "foreign: not a trace of ours; name its columns with --columns" in refused(tmp_path / "foreign")
    assert "newer: trace format 99; this kvsim reads 1" in refused(tmp_path / "newer")
    assert "short: no column 'arrival'" in refused(tmp_path / "short")


def test_a_cut_parquet_file_is_refused(tmp_path: Path) -> None:
    data = own(tmp_path).read_bytes()

    for length in (8, len(data) // 2, len(data) - 1):
        assert "t: not a Parquet file" in refused(save(tmp_path, data[:length]))


SAMPLES = [
    VIDUR + "0,5,1\n1,6,2\n",
    AZURE,
    MOON,
    CHAT,
    SIM,
    ROW,
    BENCH % ("[5, 6]", "[0, 1]"),
    SESSION % '{"in": 64, "out": 1, "hash_ids": [1]}',
]


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_a_trace_or_one_clear_line(
    tmp_path: Path, sample: str, data: st.DataObject
) -> None:
    content = bytearray(sample.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(DAMAGE))

    path = save(tmp_path, bytes(content))
    try:
        whole = len(read_trace(path)) >= 1
    except InputError:
        whole = False

    assert whole or refused(path)


DAMAGE = [
    b"",
    b"0",
    b"-",
    b"9" * 25,
    b"nan",
    b",",
    b"\n",
    b'"',
    b"{",
    b"]",
    b"\xff",
    b"\x00",
    b"null",
    b"1e400",
    b".",
]


@given(st.binary(max_size=300), st.sampled_from([None, *format_names()]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_one_clear_line(tmp_path: Path, noise: bytes, name: str | None) -> None:
    columns = {"prompt": "p", "output": "o"} if name in ("csv", "jsonl", "parquet") else None

    assert refused(save(tmp_path, noise), format=name, columns=columns)
