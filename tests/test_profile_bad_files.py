"""Profiles that are not what they should be: one line that names the file, the field and what was allowed."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_device as device
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import SMALL

from kvsim.calibration.points import Point
from kvsim.calibration.profile import Profile
from kvsim.calibration.profile_file import profile_to_json, read_profile
from kvsim.errors import InputError

Json = dict[str, Any]
GOOD: Json = json.loads(json.dumps(profile_to_json(device.profile([*device.every_point(), *device.mixed()]))))
DECODE = next(
    n
    for n, point in enumerate(GOOD["points"])
    if point["op"] == "attn_decode" and isinstance(point["kv"], list)
)
GEMM = next(n for n, point in enumerate(GOOD["points"]) if point["op"] == "gemm")


def put(*path: str | int, value: object) -> Callable[[Json], None]:
    """Return a change of one value, found by keys and indices."""

    def change(record: Json) -> None:
        place: Any = record
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[Json], None]:
    def change(record: Json) -> None:
        place: Any = record
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


def without(op: str) -> Callable[[Json], None]:
    """Return a change that leaves out all points of an operation, and the fits."""

    def change(record: Json) -> None:
        record["points"] = [point for point in record["points"] if point["op"] != op]
        del record["fits"]

    return change


def bare(record: Json) -> None:
    del record["fits"], record["points"]


NAN, INFINITE = float("nan"), float("inf")
BAD: list[tuple[Callable[[Json], None], str]] = [
    (put("format", value="csv"), "format must be kvsim-profile, got 'csv'"),
    (put("version", value=2), "version 2 is newer than 1, which this kvsim reads"),
    (put("version", value="1"), "version must be a whole number ≥ 1, got '1'"),
    (drop("version"), "version must be a whole number ≥ 1, got None"),
    (put("representative", value=1), "representative must be true or false, got 1"),
    (put("model", value=None), "model must be an object"),
    (put("model", "heads", value=-8), "model.heads must be a whole number ≥ 1, got -8"),
    (put("model", "name", value=""), "model.name must be text"),
    (put("model", "heads", value=16), "heads 8/2 of 32 are another model's: small on 1 GPU has 16/2 of 32"),
    (put("model", "tp", value=2), "heads 8/2 of 32 are another model's: small on 2 GPUs has 4/1 of 32"),
    (put("model", "tp", value=3), "tensor_parallel_size must divide the 8 query heads"),
    (put("model", "ffn", value=640), "n × k is"),
    (put("points", value={}), "points must be a list, got dict"),
    (put("points", 3, value=7), r"points\[3\] must be an object, got int"),
    (put("points", DECODE, "ns", value=[1.0, NAN]), "NaN is not a number that a profile may hold"),
    (put("points", DECODE, "ns", value=[INFINITE]), "Infinity is not a number"),
    (put("points", DECODE, "ns", value=[5, -1]), "ns must be finite and > 0, got -1"),
    (put("points", DECODE, "ns", value=[0]), "ns must be finite and > 0, got 0"),
    (put("points", DECODE, "ns", value=["5"]), "ns must be finite and > 0, got '5'"),
    (put("points", DECODE, "ns", value=[]), "ns must be a list of times"),
    (put("points", DECODE, "q", value=[1] * 99), "99 lengths q and . lengths kv; they must agree"),
    (put("points", DECODE, "kv", value=[]), "lengths kv; they must agree"),
    (put("points", DECODE, "kv", value={"rle": [[9, 1 << 40]]}), "more than 1048576 sequences"),
    (put("points", DECODE, "kv", value={"rle": [9]}), r"a run is \[length, count\], got 9"),
    (put("points", DECODE, "kv", value=[0.5]), "a length must be a whole number ≥ 1, got 0.5"),
    (put("points", DECODE, "op", value="attn_decod"), "op must be one of .*did you mean 'attn_decode'"),
    (put("points", DECODE, "heads", value=[8, 2]), "heads must be three whole numbers"),
    (put("points", DECODE, "heads", value=[32, 8, 128]), "heads 32/8 of 128 are another model's"),
    (put("points", DECODE, "page", value=0), "page must be null or a whole number ≥ 1, got 0"),
    (put("points", DECODE, "window", value=-4), "window must be null or a whole number ≥ 1, got -4"),
    (put("points", DECODE, "layout", value="round"), "layout must be one of paged, contiguous, shared"),
    (put("points", DECODE, "mode", value="fast"), "mode must be one of graph, eager"),
    (put("points", DECODE, "cold", value="yes"), "cold must be true or false, got 'yes'"),
    (put("points", DECODE, "flags", value="rejected"), "flags must be a list of words"),
    (put("points", DECODE, "sm_mhz", value=[1]), "sm_mhz must be null or two numbers"),
    (put("points", DECODE, "power_w", value=[0, 300]), "power_w must be null or two numbers > 0, got"),
    (put("points", DECODE, "slow_ns", value=[5, -1]), "slow_ns must be a list of times > 0"),
    (put("points", DECODE, "backend", value=3), "backend must be text, got 3"),
    (put("points", DECODE, "rel_err", value="low"), "rel_err must be null or a number"),
    (put("points", DECODE, "kv_dtype", value="fp99"), "kv_dtype must be one of"),
    (drop("points", DECODE, "id"), f"points\\[{DECODE}\\]: no 'id'"),
    (put("points", DECODE, "id", value=GOOD["points"][GEMM]["id"]), "the id occurs twice"),
    (put("points", GEMM, "m", value=-1), "m must be a whole number ≥ 0, got -1"),
    (put("points", GEMM, "m", value=0), "gemm needs m ≥ 1"),
    (put("points", GEMM, "k", value=999), "but small has"),
    (put("points", GEMM, "name", value="qvk"), "gemm 'qvk' is none of qkv"),
    (without("gemm"), "missing op gemm 'qkv'"),
    (without("attn_decode"), "missing op attn_decode"),
    (without("attn_prefill"), "missing op attn_prefill"),
    (bare, "neither fits nor points"),
    (put("fits", "gemm", "qkv", "form", value="spline"), "fits.gemm.qkv: unknown fit form 'spline'"),
    (put("fits", "gemm", "qkv", "seconds", value=[1.0]), "1 seconds for .* nodes; lengths disagree"),
    (put("fits", "gemm", "qkv", "slope", value=-1), "slope must be a number ≥ 0, got -1"),
    (put("fits", "gemm", "qkv", "nodes", 1, value=0.5), "fits.gemm.qkv.nodes must ascend"),
    (put("fits", "gemm", "qkv", "seconds", 1, value=1e-30), "fits.gemm.qkv.seconds must not fall"),
    (put("fits", "attention", 0, "coefficients", "context", value=-1), "context must be a number ≥ 0, got -1"),
    (drop("fits", "attention", 0, "coefficients", "context"), "no coefficient 'context'; attn_decode has"),
    (put("fits", "attention", 0, "seconds", value=[0.0]), "1 seconds for .* nodes; lengths disagree"),
    (put("fits", "attention", 0, "axes", value=[[1, 2]]), "axes must be 2 lists of nodes"),
    (put("fits", "attention", 0, "hull", value=[[1]]), "a corner is two numbers > 0"),
    (put("fits", "attention", 0, "dense", value=1), "dense must be true or false, got 1"),
    (put("fits", "attention", 0, "op", value="attn"), "op must be one of attn_decode"),
    (drop("fits", "gemm", "down"), "missing op gemm 'down'"),
    (put("fits", "attention", value=[]), "missing op attn_decode"),
    (put("fits", "sampler", value=3), "fits.sampler must be an object, got int"),
    (put("errors", "step decode", "mean", value=-0.1), "errors.step decode.mean must be a number ≥ 0"),
    (put("errors", value=[]), "errors must be an object, got list"),
    (put("split", "draws", value=0), "split.draws must be a whole number ≥ 1, got 0"),
    (put("host", value={"step": -1, "source": "x"}), "host.step must be seconds from 0 to 10, got -1"),
    (put("host", value={"step": 1e-4}), "host needs a source"),
    (put("warnings", value="beware"), "warnings must be a list"),
    (put("sentinels", value=3), "sentinels must be a list"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BAD)
def test_a_bad_profile_is_one_line_that_names_file_and_field(
    tmp_path: Path, change: Callable[[Json], None], said: str
) -> None:
    record = copy.deepcopy(GOOD)
    change(record)
    path = tmp_path / "p.json"
    path.write_text(json.dumps(record))

    with pytest.raises(InputError, match=said) as caught:
        read_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


FILES: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"[1]", "a profile must be an object, got list"),
    (b"\xff\xfe", "not JSON"),
    (b"\x1f\x8bnonsense", "p.json: "),
    (gzip.compress(b"{}", mtime=0)[:-6], "ended before"),
    (b"[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("content", "said"), FILES)
def test_what_is_no_profile_at_all_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "p.json").write_bytes(content)

    with pytest.raises(InputError, match=said) as caught:
        read_profile(tmp_path / "p.json")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: No such file or directory"):
        read_profile(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="Is a directory"):
        read_profile(tmp_path)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value in JSON, of lists the first two."""
    found = [path] if path else []
    pairs = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    return found + [each for key, inner in pairs for each in places(inner, (*path, key))]


SMALLER = GOOD | {"points": [GOOD["points"][DECODE], GOOD["points"][GEMM]]}
scalars = st.sampled_from([None, True, -1, 0, 1.5, "", "x", [], {}, [[]], 1 << 70])


@settings(max_examples=300)
@given(st.sampled_from(places(SMALLER)), scalars)
def test_any_value_of_any_kind_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[str | int, ...], value: object
) -> None:
    record = copy.deepcopy(SMALLER)
    put(*where, value=value)(record)
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(record))

    with suppress(InputError):
        read_profile(path)


def test_fits_of_a_newer_fitter_without_points_are_refused(tmp_path: Path) -> None:
    record = {name: value for name, value in GOOD.items() if name != "points"}
    (tmp_path / "p.json").write_text(json.dumps(record | {"fits": {"tool": 99}}))

    with pytest.raises(InputError, match=r"fitted by a newer version: fits.tool is 99"):
        read_profile(tmp_path / "p.json")


def test_building_from_points_of_another_model_is_refused() -> None:
    other = replace(SMALL, heads=4)

    with pytest.raises(InputError, match="heads 8/2 of 32 are another model's"):
        Profile.build(other, device.every_point())


def test_an_allreduce_of_another_number_of_gpus_is_refused() -> None:
    point = Point(id="a", set="X", op="allreduce", ns=(1.0,), message_bytes=8, gpus=4)

    with pytest.raises(InputError, match="an all-reduce of 4 GPUs in a profile of 1"):
        device.profile([*device.every_point(), point])
