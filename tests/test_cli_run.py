"""`kvsim run`: a summary, a folder, a step log; settings from flags and from a file."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kvsim.cli import main
from kvsim.cli.flags import HEADINGS
from kvsim.cli.print_json import print_json
from kvsim.config import RunConfig
from kvsim.result import load_result, whole_folder

LINEAR = ("--cost", "linear:0.01,1e-5,0")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    made = [{"arrival_s": i / 4, "prompt_len": 40 + i, "output_len": 5} for i in range(12)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in made))
    return path


def record(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    main(["run", *map(str, arguments), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_run_prints_a_table_and_where_the_numbers_come_from(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", str(rows), *LINEAR])

    printed = capsys.readouterr()
    assert "completed" in printed.out
    assert "12" in printed.out
    assert "cost linear:0.01,1e-05,0 (assumed)" in printed.out
    assert printed.err == ""


def test_json_has_settings_and_summary_and_nothing_else_is_on_stdout(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = record(capsys, rows, *LINEAR, "--goodput", "ttft:1000")

    assert found["summary"]["completed"] == 12
    assert found["summary"]["request_goodput"] > 0
    assert found["config"]["settings"]["block_size"] == 16
    assert found["config"]["trace"]["requests"] == 12


def test_json_has_null_where_there_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), float("inf"), 1.5], "b": {"c": None, "d": True}, "e": Path("x")})

    assert json.loads(capsys.readouterr().out) == {
        "a": [None, None, 1.5],
        "b": {"c": None, "d": True},
        "e": "x",
    }


def test_a_run_leaves_a_folder_that_reads_back(rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    main(["run", str(rows), *LINEAR, "-o", str(folder)])

    assert sorted(path.name for path in folder.iterdir()) == [
        "itl.parquet",
        "requests.parquet",
        "run.json",
        "timeline.parquet",
    ]
    result = load_result(folder)
    assert result.summary["completed"] == len(result.requests) == 12
    assert result.config["seed"] == 0


def test_the_caption_says_how_many_gpus_share_the_model(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", str(rows), *LINEAR, "--tensor-parallel-size", "2"])

    assert "GPU 2 × a100-80-sxm" in capsys.readouterr().out


def test_an_empty_folder_that_is_there_is_filled(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    main(["run", str(rows), *LINEAR, "-o", str(tmp_path / "out")])

    assert (tmp_path / "out" / "run.json").is_file()


def test_what_a_killed_run_left_is_not_in_the_way(rows: Path, tmp_path: Path) -> None:
    for name in (".out.part", ".out.1.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("half")

    main(["run", str(rows), *LINEAR, "-o", str(tmp_path / "out")])

    assert (tmp_path / "out" / "run.json").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_folder_is_whole_or_not_there(error: type[BaseException], tmp_path: Path) -> None:
    def fill(working: Path) -> None:
        (working / "half").write_text("")
        raise error

    with pytest.raises(error), whole_folder(tmp_path / "out") as working:
        fill(working)

    assert list(tmp_path.iterdir()) == []


def test_the_step_log_has_a_row_a_step(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "steps.jsonl.gz"
    found = record(capsys, rows, *LINEAR, "--step-log", path)

    steps = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert len(steps) == found["summary"]["steps"]
    assert {"step", "t0", "t1", "sched", "new", "preempt", "fin", "run", "wait", "blk", "ctx"} <= set(
        steps[0]
    )


def test_every_setting_is_a_flag_under_one_heading() -> None:
    named = [name for names in HEADINGS.values() for name in names]

    assert sorted(named) == sorted(RunConfig.__dataclass_fields__)


def test_none_is_a_value_of_the_retention_interval(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--policy", "sliding-window", "--prefix-cache-retention-interval", "none")
    found = record(capsys, rows, *LINEAR, *flags)

    assert found["config"]["policy_parameters"]["prefix_cache_retention_interval"] is None


def test_a_file_gives_settings_and_flags_go_before_it(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text('block-size = 32\nmax_num_seqs = 4\nenable_chunked_prefill = true\ngpu = "l40s"\n')
    found = record(capsys, rows, *LINEAR, "--config", path, "--max-num-seqs", 256)

    settings = found["config"]["settings"]
    assert (settings["block_size"], settings["max_num_seqs"], settings["gpu"]) == (32, 256, "l40s")
    assert found["config"]["policy_parameters"]["block_size"] == 32


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("blok_size = 32", "run.toml: unknown setting 'blok_size' (did you mean 'block_size'"),
        ('block_size = "many"', 'run.toml: unable to convert "many" into int'),
        ('scheduler = "fair"', 'Invalid value "fair"'),
        ("block_size: 32", "run.toml: not TOML"),
    ],
)
def test_a_file_with_a_mistake_is_refused(
    text: str, complaint: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["run", str(rows), "--config", str(path)])

    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert complaint in printed
    assert printed.count("\n") == 1


def test_a_request_that_can_never_run_is_rejected_and_the_run_goes_on(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    main(["run", str(rows), *LINEAR, "--max-model-len", "50", "-o", str(folder)])

    frame = pd.read_parquet(folder / "requests.parquet")
    assert frame["status"].tolist() == ["completed"] * 10 + ["rejected"] * 2
    assert frame["reason"][11] == "prompt of 51 tokens does not fit max_model_len 50 with an output"
    assert "2 requests rejected; the first in row 10" in capsys.readouterr().err


def test_a_prompt_longer_than_the_pool_is_rejected_too(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = record(capsys, rows, *LINEAR, "--num-gpu-blocks-override", 4)

    assert 0 < found["summary"]["rejected"] < 12
    assert found["summary"]["completed"] + found["summary"]["rejected"] == 12


def test_a_run_in_which_nothing_runs_still_prints_its_table(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", str(rows), *LINEAR, "--max-model-len", "8"])

    assert "rejected" in capsys.readouterr().out


def test_the_dictionary_of_the_frames_has_every_column(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = record(capsys, rows, *LINEAR, "--goodput", "ttft:1000", "-o", tmp_path / "out")
    result = load_result(tmp_path / "out")
    text = (Path(__file__).parents[1] / "reports" / "README.md").read_text()

    distributions = re.compile(r"(median|std|p\d\d)_(ttft|tpot|itl|e2el|queue)_ms")
    named = {*found["summary"], *result.requests, *result.timeline}
    assert not {name for name in named if f"`{name}`" not in text and not distributions.fullmatch(name)}
