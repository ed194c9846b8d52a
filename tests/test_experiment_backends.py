"""Cells on a cluster of two workers: dask and ray give what one process gives, and survive a killed worker."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from kvsim import InputError
from kvsim.cell_backends import Workers
from kvsim.cell_inputs import InputFile
from kvsim.cell_run import OUT_OF_REACH, run_task
from kvsim.cells import TaskMaker
from kvsim.experiment import Experiment
from kvsim.experiment_run import Plan
from kvsim.traces.generate import generate
from kvsim.traces.write import write_trace

BASE: dict[str, Any] = {
    "cost": "linear:0.01,1e-4,1e-6",
    "num_gpu_blocks_override": 120,
    "max_model_len": 2048,
}

KILLER = """
import os, signal
from kvsim.policies.paged import PagedPolicy

class Killer(PagedPolicy):
    name = "killer"

    def reset(self, pool):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_trace(generate("alpaca", 20, rate=2.0, seed=5), tmp_path / "rows.parquet")
    (tmp_path / "killer.py").write_text(KILLER)
    return tmp_path


def swept(folder: Path, policies: list[str]) -> Experiment:
    base = {"trace": "rows.parquet", **BASE}
    return Experiment(base=base, sweep={"policy": policies, "scale_rate": [1, 2]}, folder=folder)


def content(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def check_backend(folder: Path, backend: Any) -> None:
    experiment = swept(folder, ["paged", "./killer.py:Killer"])
    alone = swept(folder, ["paged"])
    alone.run(folder / "one", jobs=1)

    frame = experiment.run(folder / "many", jobs=2, backend=backend)

    assert frame["status"].tolist() == ["ok", "ok", "failed", "failed"]
    assert frame["error"].str.startswith("its worker process died, and died again").tolist()[2:] == [
        True,
        True,
    ]
    ours = {name: data for name, data in content(folder / "many").items() if name.startswith("cells/")}
    assert ours == {name: data for name, data in content(folder / "one").items() if name.startswith("cells/")}


@pytest.mark.filterwarnings("ignore::UserWarning:multiprocessing.resource_tracker")
def test_two_dask_workers_give_the_bytes_of_one_process_and_outlive_a_kill(folder: Path) -> None:
    pytest.importorskip("distributed", reason="dask is not installed: pip install 'kvsim[dask]'")

    check_backend(folder, "dask")


@pytest.mark.filterwarnings("ignore")
def test_two_ray_workers_give_the_bytes_of_one_process_and_outlive_a_kill(folder: Path) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'kvsim[ray]'")

    check_backend(folder, "ray")


@pytest.mark.parametrize("backend", ["ray", "dask"])
def test_a_library_that_is_missing_is_named_with_how_to_install_it(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, {"ray": "ray", "dask": "distributed"}[backend], None)
    monkeypatch.delitem(sys.modules, f"kvsim.cell_backends_{backend}", raising=False)

    with pytest.raises(InputError, match=rf"pip install 'kvsim\[{backend}\]'"), Workers(backend, 2):
        pass


@pytest.mark.parametrize("backend", ["ray", "dask"])
def test_a_cluster_that_is_not_there_is_said_at_once(backend: Any) -> None:
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[backend])

    with pytest.raises(InputError, match=rf"backend {backend}: no cluster at 127\.0\.0\.1:9: .*refused"):
        Workers(backend, 2, "127.0.0.1:9").__enter__()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dusk", 2), r"backend must be one of loky, ray, dask, got 'dusk' \(did you mean 'dask'"),
        (("loky", 0), "jobs must be at least 1, got 0"),
        (("loky", 2, "tcp://10.0.0.1:8786"), "a scheduler address goes with backend ray or dask"),
    ],
)
def test_workers_that_cannot_be_are_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Workers(*arguments)


def test_a_worker_without_the_file_asks_for_it_and_runs_from_what_it_is_sent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    experiment = swept(folder, ["paged"])
    frame = experiment.run(jobs=1)
    plan = Plan(experiment, None)
    hidden = folder / "elsewhere" / folder.name / "rows.parquet"
    asked: list[str] = []

    def away(task: Any) -> Any:
        """Act as a worker on a machine where the path leads nowhere."""
        unseen = task.files | {"trace": InputFile(str(hidden), task.files["trace"].sha256)}
        key, outcome = run_task(dataclasses.replace(task, files=unseen))
        asked.append(outcome["status"])
        return key, outcome

    monkeypatch.setattr("kvsim.experiment_run.run_task", away)
    monkeypatch.setattr(Workers, "map", lambda self, function, items: map(function, items))
    plan.run(Workers("loky", 2), progress=False)

    assert asked == [OUT_OF_REACH, OUT_OF_REACH, "ok", "ok"]
    assert plan.frame().equals(frame)


def test_an_edited_trace_is_not_run_under_its_old_name(folder: Path) -> None:
    experiment = swept(folder, ["paged"])
    plan = Plan(experiment, None)
    write_trace(generate("alpaca", 20, rate=2.0, seed=6), folder / "rows.parquet")

    plan.run(Workers("loky", 2), progress=False)

    assert plan.frame()["status"].tolist() == ["failed", "failed"]
    assert "changed since the experiment was planned; start it again" in plan.frame()["error"][0]


def test_a_worker_with_other_code_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskMaker(folder, "here").make(swept(folder, ["paged"]).expanded()[0])
    monkeypatch.setattr("kvsim.cell_run.code_hash", lambda: "other")

    _, outcome = run_task(task)

    assert outcome["status"] == "failed"
    assert "has another kvsim; install the same one everywhere" in outcome["error"]
