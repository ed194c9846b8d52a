"""`kvsim trace`: results on stdout, talk on stderr, one line for errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

from kvsim.cli.trace import trace as trace_app
from kvsim.cli.trace_options import TraceOptions
from kvsim.errors import InputError
from kvsim.traces.fetch import known
from kvsim.traces.generate import generate
from kvsim.traces.read import read_trace
from kvsim.traces.stats import stats
from kvsim.traces.workloads import workloads
from kvsim.traces.write import write_trace


def kvsim(*arguments: object) -> None:
    app = App(name="kvsim")
    app.command(trace_app)
    app(
        [str(argument) for argument in ("trace", *arguments)],
        exit_on_error=False,
        result_action="return_value",
    )


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "chat.parquet"
    write_trace(generate("chat", 200, rate=1.0, seed=1), path)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("ts,in,out\n1,10,5\n0,20,6\n4,30,7\n")
    return path


def test_generate_writes_a_trace_that_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "made.parquet"

    kvsim("generate", "agent", "-o", path, "--requests", 50, "--rate", 2, "--seed", 4, "--arrival", "gamma:2")

    assert read_trace(path).sha256() == generate("agent", 50, 2.0, 4, "gamma:2").sha256()


@pytest.mark.parametrize("arguments", [[], ["--list"], ["chat", "--list"]])
def test_generate_without_a_name_lists_the_workloads(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kvsim("generate", *arguments)

    out = capsys.readouterr().out
    assert all(name in out for name in workloads())
    assert "output mean 337.99" in out


def test_generate_without_a_file_says_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"generate chat needs a file to write: -o FILE\.parquet"):
        kvsim("generate", "chat")


def test_stats_print_every_figure(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kvsim("stats", chat, "--hit-curve", "10,1000")

    out, err = capsys.readouterr()
    for part in (
        "requests  200",
        "closed-loop",
        "p99",
        "full blocks",
        "the most reused 10 %",
        "1,000 blocks",
    ):
        assert part in out
    assert err == ""


def test_stats_as_json_are_one_object_with_whole_numbers(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kvsim("stats", chat, "--hit-curve", "10,1000", "--json")

    found = json.loads(capsys.readouterr().out)
    expected = stats(read_trace(chat), [10, 1000])
    assert expected.reuse is not None
    assert found["requests"] == 200
    assert found["prompt"]["percentiles"]["50"] == expected.prompt.percentiles[50]
    assert found["reuse"]["lru_hits"] == {str(c): hits for c, hits in expected.reuse.lru_hits.items()}
    assert found["reuse"]["token_hit_rate"] == expected.reuse.token_hit_rate


def test_notes_go_to_stderr_and_columns_are_named(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kvsim("stats", table, "--columns", "arrival=ts,prompt=in,output=out", "--json")

    out, err = capsys.readouterr()
    assert json.loads(out)["prompt"]["total"] == 60
    assert "sorted" in err


def test_samples_of_single_rows_are_said_to_be_left_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"arrival_s": 0.0, "prompt_len": 4, "output_len": 2, "samples": n} for n in (1, 3)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    kvsim("stats", path)

    assert capsys.readouterr().err == (
        "t.jsonl: rows ask for up to 3 samples; a run gives all prompts as many, by --samples\n"
    )


def test_convert_reads_and_transforms(chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"

    kvsim("convert", chat, "-o", out, "--head", 7, "--repeat", 2, "--scale-rate", 2)

    converted = read_trace(out)
    expected = TraceOptions(head=7, repeat=2, scale_rate=2.0).load(chat)
    assert converted.sha256() == expected.sha256()
    assert len(converted) == 14
    assert capsys.readouterr().out == ""


def test_all_reading_and_transform_flags_reach_the_trace(table: Path) -> None:
    options = TraceOptions(
        format="csv",
        columns="arrival=ts, prompt=in, output=out",
        rate=5.0,
        arrival="uniform",
        between="0.1,10",
        sample=1.0,
        head=2,
    )

    loaded = options.load(table)
    assert loaded.prompt_tokens.tolist() == [20, 30]
    assert loaded.arrival.tolist() == pytest.approx([0.1, 0.3])


def test_fetch_lists_what_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    kvsim("fetch")
    text = capsys.readouterr().out
    kvsim("fetch", "--list", "--json")
    listed = json.loads(capsys.readouterr().out)

    assert all(trace.address() in text and trace.licence in text for trace in known().values())
    assert listed["azure-conv"]["sha256"] == known()["azure-conv"].sha256


def test_fetch_takes_a_mirror_even_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = known()["vidur-splitwise-code"]
    shelf = tmp_path / "mirror" / entry.repository / entry.commit / entry.path
    shelf.parent.mkdir(parents=True)
    shelf.write_bytes(b"something else")

    with pytest.raises(InputError, match=r"broke off after 14 of 166,195 bytes"):
        kvsim("fetch", entry.name, "--to", tmp_path, "--base-url", (tmp_path / "mirror").as_uri())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hit-curve", "many"], "--hit-curve must be whole numbers of blocks like 1000,10000, got 'many'"),
        (["--hit-curve", "0"], "cache capacity must be at least 1 block, got 0"),
        (["--between", "5"], "--between must be START,END in seconds, got '5'"),
        (["--columns", "arrival"], "--columns must be name=column,name=column, got 'arrival'"),
        (["--head", "0"], "head must be at least 1 request, got 0"),
        (["--sample", "2"], "sample must be a share above 0 and at most 1, got 2"),
    ],
)
def test_bad_flags_are_named(chat: Path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kvsim("stats", chat, *flags)


def test_a_hit_curve_needs_block_ids(table: Path) -> None:
    with pytest.raises(InputError, match=r"--hit-curve needs block ids, and .*table\.csv has none"):
        kvsim("stats", table, "--columns", "arrival=ts,prompt=in,output=out", "--hit-curve", "10")


@pytest.mark.parametrize("command", ["stats", "convert", "generate", "fetch"])
def test_every_command_explains_every_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    kvsim(command, "--help")

    out = capsys.readouterr().out
    assert "Usage: kvsim trace" in out
    for flag in ("--between", "--scale-rate") if command in ("stats", "convert") else ("--list",):
        assert flag in out


def test_the_commands_load_nothing_heavy_before_they_run() -> None:
    code = "import sys, kvsim.cli.trace; print([m for m in ('pandas', 'pyarrow', 'matplotlib') if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
