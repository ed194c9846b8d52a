"""Running an experiment: rows, what is kept and what is not, failures, and the same bytes however it is run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kvsim import InputError, compare
from kvsim.cell_inputs import InputFile, content_hash
from kvsim.cell_shipping import packed, received
from kvsim.experiment import Experiment, sweep
from kvsim.experiment_file import read_experiment
from kvsim.traces.generate import generate
from kvsim.traces.read import read_trace
from kvsim.traces.write import write_trace

BASE: dict[str, Any] = {
    "cost": "linear:0.01,1e-4,1e-6",
    "num_gpu_blocks_override": 120,
    "max_model_len": 2048,
}
SWEEP: dict[str, Any] = {"policy": ["paged", "prefix"], "scale_rate": [1, 2]}

MINE = """
import os, signal
from helper_of_mine import DEPTH
from kvsim.policies.paged import PagedPolicy

class Mine(PagedPolicy):
    name = "mine"

    def __init__(self, *, block_size: int = 16, fate: str = "") -> None:
        super().__init__(block_size=block_size)
        self.fate = fate

    def reset(self, pool):
        if self.fate == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fate == "crash":
            raise ZeroDivisionError("no such luck")
        super().reset(pool)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_trace(generate("chat", 30, rate=2.0, seed=5, turns=3), tmp_path / "rows.parquet")
    return tmp_path


def experiment(folder: Path, **parts: Any) -> Experiment:
    base = {"trace": "rows.parquet", **BASE, **parts.pop("base", {})}
    return Experiment(base=base, sweep=parts.pop("sweep", SWEEP), folder=folder, **parts)


def stamps(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "cells").glob("*.json")}


def content(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_a_row_has_what_is_varied_then_the_metrics_then_how_it_ended(folder: Path) -> None:
    frame = experiment(folder).run(jobs=1)

    assert list(frame.columns[:3]) == ["policy", "scale_rate", "duration"]
    assert list(frame.columns[-4:]) == ["status", "error", "cell", "key"]
    assert frame["policy"].tolist() == ["paged", "paged", "prefix", "prefix"]
    assert frame["status"].tolist() == ["ok"] * 4
    assert frame["error"].isna().all()


def test_a_cell_says_what_compare_says(folder: Path) -> None:
    frame = experiment(folder, sweep={"policy": ["paged:block_size=32", "contiguous"]}).run(jobs=1)

    same = compare(read_trace(folder / "rows.parquet"), frame["policy"].tolist(), **BASE).summary
    pd.testing.assert_frame_equal(frame[list(same.columns)], same, check_dtype=False)


def test_any_number_of_workers_writes_the_same_bytes(folder: Path) -> None:
    for jobs in (1, 2):
        experiment(folder).run(folder / str(jobs), jobs=jobs)

    assert content(folder / "1") == content(folder / "2")
    assert "cells.parquet" in content(folder / "1")


def test_what_had_finished_is_kept_and_the_end_is_the_same(folder: Path) -> None:
    experiment(folder).run(folder / "whole", jobs=1)
    experiment(folder, sweep=SWEEP | {"scale_rate": [2]}).run(folder / "half", jobs=1)
    kept = stamps(folder / "half")

    experiment(folder).run(folder / "half", jobs=1)

    assert len(kept) == 2
    assert {name: stamps(folder / "half")[name] for name in kept} == kept
    assert content(folder / "half") == content(folder / "whole")


def test_a_changed_value_runs_its_own_cells_only(folder: Path) -> None:
    experiment(folder).run(folder / "out", jobs=1)
    before = stamps(folder / "out")

    experiment(folder, sweep=SWEEP | {"scale_rate": [1, 3]}).run(folder / "out", jobs=1)

    after = stamps(folder / "out")
    assert len(after) == 6
    assert all(after[name] == stamp for name, stamp in before.items())


def test_another_trace_under_the_same_name_runs_everything(folder: Path) -> None:
    first = experiment(folder).run(folder / "out", jobs=1)
    write_trace(generate("chat", 30, rate=2.0, seed=6, turns=3), folder / "rows.parquet")

    second = experiment(folder).run(folder / "out", jobs=1)

    assert not set(first["key"]) & set(second["key"])


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def alter(path: Path) -> None:
    path.write_text(path.read_text().replace('"completed": 30', '"completed": 31'))


def forge(path: Path) -> None:
    record = json.loads(path.read_text())
    record["inputs"]["policy"] = "contiguous"
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("harm", [tear, alter, forge, Path.unlink])
def test_a_cell_file_that_is_not_whole_is_not_trusted(folder: Path, harm: Callable[[Path], None]) -> None:
    experiment(folder).run(folder / "out", jobs=1)
    whole = content(folder / "out")

    harm(sorted((folder / "out" / "cells").iterdir())[0])
    experiment(folder).run(folder / "out", jobs=1)

    assert content(folder / "out") == whole


def test_a_cell_that_cannot_work_is_a_row_and_the_others_go_on(folder: Path) -> None:
    frame = experiment(folder, sweep={"max_num_batched_tokens": [0, 512], "policy": ["paged"]}).run(jobs=1)

    assert frame["status"].tolist() == ["failed", "ok"]
    assert "max_num_batched_tokens" in frame["error"][0]
    assert pd.isna(frame["completed"][0])


@pytest.mark.parametrize(
    ("base", "said"),
    [
        (
            {"gpu": "h100-sx"},
            r"cell policy=paged,scale_rate=1: unknown GPU 'h100-sx' \(did you mean 'h100-sxm'",
        ),
        ({"model": "llama-3.1-9b"}, "unknown model 'llama-3.1-9b'"),
        ({"trace": "none.csv"}, r"trace '.*none\.csv': No such file or directory"),
        ({"workload": "agent"}, "trace and workload are two sources"),
        ({"cost": "profile.json"}, r"cost profile '.*profile\.json': No such file"),
    ],
)
def test_a_name_that_nobody_knows_stops_before_anything_runs(
    folder: Path, base: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        experiment(folder, base=base).run(folder / "out")
    assert not (folder / "out").exists()


def test_a_parameter_that_a_policy_does_not_have_stops_too(folder: Path) -> None:
    parts = {"sweep": {"policy": ["paged"], "paged.blok_size": [16]}}

    with pytest.raises(
        InputError, match=r"policy 'paged' has no parameter 'blok_size' \(did you mean 'block_size'"
    ):
        experiment(folder, **parts).run()


def test_a_folder_of_somebody_else_s_is_left_alone(folder: Path) -> None:
    with pytest.raises(InputError, match="exists and is not an experiment's; name a new one"):
        experiment(folder).run(folder)


def test_the_copy_in_the_folder_goes_on_where_the_file_did_and_keeps_its_comments(folder: Path) -> None:
    experiment(folder).run(folder / "out", jobs=1)
    copy = folder / "out" / "experiment.toml"
    copy.write_text(copy.read_text() + "# mine\n")
    before = content(folder / "out")

    read_experiment(copy).run(folder / "out", jobs=1)

    assert content(folder / "out") == before


def test_a_trace_in_memory_is_swept_and_kept_with_its_results(folder: Path) -> None:
    trace = generate("alpaca", 20, rate=4.0, seed=1)

    frame = sweep(trace, {"block_size": range(8, 25, 8)}, output=folder / "out", jobs=1, **BASE)

    assert frame["block_size"].tolist() == [8, 16, 24]
    assert frame["completed"].tolist() == [20, 20, 20]
    assert read_trace(folder / "out" / "trace.parquet").sha256() == trace.sha256()


def test_seeds_draw_anew(folder: Path) -> None:
    base = {"workload": "alpaca", "requests": 10, "rate": 4.0, **BASE}

    frame = Experiment(base=base, seeds=3).run(jobs=1)

    assert frame["seed"].tolist() == [0, 1, 2]
    assert frame["duration"].nunique() == 3


@pytest.fixture
def mine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / "mine.py").write_text(MINE)
    (folder / "helper_of_mine.py").write_text("DEPTH = 1\n")
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("helper_of_mine", None)
    return "./mine.py:Mine"


def test_a_killed_worker_costs_its_own_cell_only(folder: Path, mine: str) -> None:
    values = {"policy": [mine], f"{mine}.fate": ["", "kill", "crash"]}

    frame = experiment(folder, sweep=values).run(folder / "out", jobs=2)

    assert frame["status"].tolist() == ["ok", "failed", "failed"]
    assert "its worker process died, and died again" in frame["error"][1]
    assert frame["error"][2] == "ZeroDivisionError: no such luck (mine.py:17)"


@pytest.mark.parametrize("edited", ["mine.py", "helper_of_mine.py"])
def test_an_edited_policy_runs_again_as_it_is_now(folder: Path, mine: str, edited: str) -> None:
    alone = experiment(folder, sweep={"policy": [mine, "paged"]})
    first = alone.run(folder / "out", jobs=1)

    (folder / edited).write_text((folder / edited).read_text() + "\n# another word\n")
    second = alone.run(folder / "out", jobs=1)

    assert second["status"].tolist() == ["ok", "ok"]
    assert (first["key"] == second["key"]).tolist() == [False, True]


def test_killed_and_started_again_it_ends_as_if_nothing_had_been(folder: Path) -> None:
    (folder / "experiment.toml").write_text(
        '[base]\nworkload = "sharegpt"\nrequests = 400\n[sweep]\nrate = { start = 1, stop = 8, step = 1 }\n'
    )
    command = [
        sys.executable,
        "-c",
        "from kvsim.cli import main; main()",
        "compare",
        "experiment.toml",
        "-j",
        "1",
    ]
    running = subprocess.Popen([*command, "-o", "out"], cwd=folder, stderr=subprocess.DEVNULL)
    while not list(folder.glob("out/cells/*.json")) and running.poll() is None:
        time.sleep(0.01)
    assert running.poll() is None
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    kept = stamps(folder / "out")

    for output in ("out", "whole"):
        subprocess.run([*command, "-o", output], cwd=folder, check=True, capture_output=True)

    assert {name: stamps(folder / "out")[name] for name in kept} == kept
    assert content(folder / "out") == content(folder / "whole")


def test_a_file_that_is_out_of_reach_is_sent_and_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    path = folder / "somewhere" / "rows.parquet"
    path.parent.mkdir()
    shutil.copy(folder / "rows.parquet", path)
    file = InputFile(str(path), content_hash(path))
    sent = packed(file)
    path.unlink()

    assert received(file, None) is None
    found = received(file, sent)
    assert found is not None
    assert found.parts[-2:] == ("somewhere", "rows.parquet")
    assert received(file, None) == found
    assert content_hash(found) == file.sha256
