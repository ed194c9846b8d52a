"""Finished runs are kept, trusted by hash only, and not run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.config import RunConfig
from kvsim.errors import InputError
from kvsim.search import search
from kvsim.search_point import Point, Setup
from kvsim.search_result import Search
from kvsim.search_store import POINTS, Store, search_folder
from kvsim.traces.redraw import GeneratedTraffic

TRAFFIC = GeneratedTraffic("alpaca", 40)
SETUP = Setup(traffic=TRAFFIC, policy="paged", config=RunConfig(max_model_len=2048))


class StoppedError(Exception):
    """What a user's Ctrl-C would be."""


def find(folder: Path | None, stop_after: int | None = None, **more: Any) -> Search:
    def progress(done: int, total: int, what: str) -> None:
        assert done <= total
        if done == stop_after:
            raise StoppedError

    return search(
        TRAFFIC,
        "rate",
        slo="ttft_p99=500ms",
        seeds=2,
        precision=0.1,
        jobs=1,
        folder=folder,
        progress=progress,
        **more,
    )


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / POINTS).iterdir()}


def test_a_search_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        find(tmp_path, stop_after=5)
    kept = files(tmp_path)

    again = find(tmp_path)

    assert len(kept) == 5
    assert kept.items() <= files(tmp_path).items()
    assert again.record() == find(None).record()


def test_a_second_search_runs_nothing(tmp_path: Path) -> None:
    find(tmp_path)
    before = files(tmp_path)

    find(tmp_path, stop_after=1)

    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": "something"}', '{"format": "kvsim-search-point"}']
)
def test_a_file_that_is_not_whole_is_not_there(tmp_path: Path, content: str) -> None:
    store = Store(SETUP, tmp_path)
    store.fetch([Point(0, 2.0)])
    (path,) = (tmp_path / POINTS).iterdir()
    path.write_text(content)

    again = Store(SETUP, tmp_path)
    again.fetch([Point(0, 2.0)])

    assert (again.runs, again.remembered) == (1, 0)
    assert again.outcomes == store.outcomes
    assert json.loads(path.read_text())["figures"] == dict(store.outcomes[Point(0, 2.0)].figures)


def test_a_run_is_named_by_all_that_it_depends_on(tmp_path: Path) -> None:
    point = Point(0, 2.0)
    policy = tmp_path / "mine.py"
    policy.write_text(
        "from kvsim.policies.paged import PagedPolicy\nclass Mine(PagedPolicy):\n    name = 'mine'\n"
    )
    keys = [
        SETUP.key(point),
        SETUP.key(point._replace(seed=1)),
        SETUP.key(point._replace(rate=2.1)),
        SETUP.key(point._replace(cost_factor=1.1)),
        SETUP.key(point._replace(changes=(("max_num_seqs", 8),))),
        Setup(traffic=TRAFFIC, policy="prefix", config=SETUP.config).key(point),
        Setup(traffic=TRAFFIC, policy=f"{policy}:Mine", config=SETUP.config).key(point),
        Setup(traffic=GeneratedTraffic("alpaca", 41), policy="paged", config=SETUP.config).key(point),
        Setup(traffic=TRAFFIC, policy="paged", config=SETUP.config.changed(gpu="h100-sxm")).key(point),
    ]

    assert len(set(keys)) == len(keys)
    assert SETUP.key(Point(0, 2.0)) == keys[0]


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        search_folder(tmp_path)

    (tmp_path / POINTS).mkdir()
    with pytest.raises(InputError, match=r"has 'notes.txt' in it, which no search wrote"):
        search_folder(tmp_path)


def test_what_a_search_writes_can_be_written_again(tmp_path: Path) -> None:
    found = find(tmp_path / "out")
    found.save(tmp_path / "out")
    found.save(tmp_path / "out")

    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {POINTS, "curve.csv", "curve.parquet", "runs.parquet", "search.json"}
    assert search_folder(tmp_path / "out") == tmp_path / "out"
    assert json.loads((tmp_path / "out" / "search.json").read_text())["sentence"] == found.sentence
