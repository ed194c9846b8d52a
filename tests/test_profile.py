"""Profiles: built from points, written, read, and fitted again when the fitter has changed."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_device as device
from small_tables import SMALL

from kvsim.calibration import profile_file
from kvsim.calibration.imported import STATEMENT
from kvsim.calibration.points import Point
from kvsim.calibration.points_file import point_from_json, point_to_json
from kvsim.calibration.profile import Profile
from kvsim.calibration.profile_file import profile_to_json, read_profile, shipped_profiles
from kvsim.errors import InputError


def test_an_exact_device_is_predicted_within_one_percent() -> None:
    errors = device.profile([*device.every_point(), *device.mixed()]).errors

    steps = {"step decode", "step prefill", "step mixed"}
    assert steps | {"gemm qkv", "sampler", "attn_mixed paged page=16 kv=bf16"} <= set(errors)
    assert max(error.mean for error in errors.values()) < 0.01


def test_a_quarter_is_drawn_apart_and_the_same_seed_draws_the_same() -> None:
    first, again, other = (device.profile(seed=seed) for seed in (3, 3, 4))

    drawn = [point.id for point in first.points if point.held_out]
    assert 0.15 < len(drawn) / len(first.points) < 0.3
    assert drawn == [point.id for point in again.points if point.held_out]
    assert drawn != [point.id for point in other.points if point.held_out]


def test_points_held_out_by_their_source_stay_so_and_the_error_is_of_a_fit_without_them() -> None:
    points = device.every_point()
    marked = [replace(points[7], held_out=True, ns=(1e9,)), *points[:7], *points[8:]]
    found = device.profile(marked)

    assert [point.id for point in found.points if point.held_out] == [points[7].id]
    assert found.errors["attn_decode paged page=16 kv=bf16"].bias < -0.99


def test_the_fit_is_of_all_points_once_its_error_is_known() -> None:
    points = device.noisy(device.every_point(), 0.1)
    marked = [replace(point, held_out=number % 4 == 0) for number, point in enumerate(points)]

    fits = [profile_to_json(device.profile(given))["fits"] for given in (points, marked)]

    assert fits[0] == fits[1]


def test_rejected_points_are_neither_fitted_nor_held_against_the_fit() -> None:
    wild = [
        replace(point, id=f"wild {point.id}", ns=(1.0,), flags=("rejected",)) for point in device.decodes()
    ]
    with_wild, without = device.profile([*device.every_point(), *wild]), device.profile()

    assert profile_to_json(with_wild)["fits"] == profile_to_json(without)["fits"]
    assert with_wild.errors == without.errors


def test_more_draws_state_errors_of_more_points_and_keep_the_fit() -> None:
    points = device.noisy(device.every_point(), 0.1)
    once, thrice = device.profile(points), device.profile(points, draws=3)

    assert profile_to_json(once)["fits"] == profile_to_json(thrice)["fits"]
    assert thrice.errors["step decode"].points > 2 * once.errors["step decode"].points


@pytest.mark.parametrize("name", ["p.json", "p.json.gz"])
def test_a_profile_is_the_same_after_writing_and_reading(tmp_path: Path, name: str) -> None:
    built = device.profile(
        [*device.noisy(device.every_point(), 0.1), *device.mixed()],
        source={"licence": "none", "statement": STATEMENT},
        host={"step": 1e-4, "request": 2e-6, "source": "a stopwatch"},
        warnings=("made up",),
    )

    found = read_profile(built.save(tmp_path / name))

    assert profile_to_json(found) == profile_to_json(built)
    assert found.points == built.points
    assert found.is_imported
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_profile_without_points_keeps_fits_and_errors(tmp_path: Path) -> None:
    built = device.profile()
    found = read_profile(built.save(tmp_path / "fits.json.gz", with_points=False))

    assert not found.points
    assert {**profile_to_json(found), "points": None} == {**profile_to_json(built), "points": None}


def test_the_same_profile_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        device.profile().save(tmp_path / name).read_bytes() for name in ("a.json.gz", "b.json.gz")
    )

    assert first == second


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    path = device.profile().save(tmp_path / "p.json")
    record = json.loads(path.read_text()) | {"mood": {"today": "good"}}
    path.write_text(json.dumps(record))

    found = read_profile(path)
    assert json.loads(found.save(tmp_path / "q.json").read_text())["mood"] == {"today": "good"}


@pytest.mark.parametrize("tool", [None, 0])
def test_fits_of_another_fitter_are_made_again_from_points(tmp_path: Path, tool: int | None) -> None:
    built = device.profile()
    record: dict[str, Any] = json.loads(json.dumps(profile_to_json(built)))
    if tool is None:
        del record["fits"]
    else:
        record["fits"] = {"tool": tool, "gemm": "in a form nobody knows any more"}
    (tmp_path / "p.json").write_text(json.dumps(record))

    assert profile_to_json(read_profile(tmp_path / "p.json")) == profile_to_json(built)


def test_stored_fits_of_this_fitter_are_taken_as_they_are(tmp_path: Path) -> None:
    record = json.loads(json.dumps(profile_to_json(device.profile())))
    record["fits"]["sampler"]["seconds"] = [0.5 for _ in record["fits"]["sampler"]["seconds"]]
    (tmp_path / "p.json").write_text(json.dumps(record))

    sampler = read_profile(tmp_path / "p.json").fits.sampler
    assert sampler is not None
    assert sampler.at(1) == 0.5


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = device.profile().save(tmp_path / "p.json")
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"profile '.*p.json' cannot be written: No space left on device"):
        device.profile().save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["p.json"]
    assert path.read_bytes() == before


def test_lengths_are_written_as_runs_and_read_back() -> None:
    point = device.attention("attn_decode", (1,) * 64, (9,) * 32 + (4096,) * 32)
    record = point_to_json(point)

    assert record["kv"] == {"rle": [[9, 32], [4096, 32]]}
    assert point_from_json(json.loads(json.dumps(record)), "p") == point


def test_every_field_of_a_point_survives() -> None:
    point = Point(
        id="a", set="D5", op="attn_decode", ns=(5.5, 6.0), q=(1, 1), kv=(7, 9), heads=device.HEADS,
        layout="shared", page=4, window=8, shared_tokens=3, dtype="fp16", kv_dtype="fp8", backend="b",
        kernels=("k",), mode="eager", cold=False, calls=3, sm_mhz=(1.0, 2.0), rel_err=0.5, held_out=True,
        flags=("clock",), name="n", m=1, n=2, k=3, message_bytes=4, gpus=2,
    )  # fmt: skip

    assert point_from_json(json.loads(json.dumps(point_to_json(point))), "p") == point


def test_shipped_profiles_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "gpu").mkdir(parents=True)
    path = device.profile().save(tmp_path / "data" / "gpu" / "small-tp2.json.gz")
    monkeypatch.setattr(profile_file, "files", lambda _: tmp_path)

    assert shipped_profiles() == {"gpu/small-tp2": path}


def test_every_shipped_profile_can_be_read_and_says_where_it_is_from() -> None:
    for name, path in shipped_profiles().items():
        found = read_profile(path)

        assert found.representative, name
        assert found.source.get("licence"), name
        assert {"step decode", "step prefill"} <= set(found.errors), name


def test_titles_name_gpu_model_and_number_of_gpus() -> None:
    assert device.profile().title == "synthetic/small"
    assert Profile(model=SMALL, tensor_parallel_size=2).title == "unknown GPU/small on 2 GPUs"


def test_a_compressed_file_is_recognised_by_content(tmp_path: Path) -> None:
    path = device.profile().save(tmp_path / "p.json")
    path.write_bytes(gzip.compress(path.read_bytes()))

    assert read_profile(path).title == "synthetic/small"
