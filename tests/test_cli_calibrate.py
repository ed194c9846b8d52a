"""`kvsim calibrate show` and `check`: what a profile rests on, and whether it still holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic_device as device

from kvsim.calibration.imported import STATEMENT
from kvsim.calibration.profile_file import shipped_profiles
from kvsim.cli import main

SOURCE = {"statement": STATEMENT, "origin": "a table", "licence": "none"}


def call(*arguments: str) -> int:
    """Run the command; return its exit code."""
    try:
        main(["calibrate", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def path(tmp_path: Path) -> str:
    points = device.noisy([*device.every_point(), *device.mixed()], 0.05)
    return str(device.profile(points, source=SOURCE, warnings=("made up",)).save(tmp_path / "p.json.gz"))


def test_show_prints_origin_points_times_and_errors(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", path) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "synthetic/small"
    assert {f"  statement: {STATEMENT}", "  licence: none", "  warning: made up"} <= set(lines)
    decode = next(line for line in lines if line.startswith("attn_decode paged page=16 kv=bf16"))
    assert decode.split()[4] == "35"
    assert any(line.startswith("step mixed") and "%" in line for line in lines)


def test_show_says_where_shared_pages_were_not_timed(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", path) == 0
    assert "shared pages: not timed; decodes that share a prefix are priced as if" in capsys.readouterr().out

    shared = [
        device.replace(point, id=f"s-{point.id}", layout="shared", shared_tokens=16)
        for point in device.decodes()
    ]
    device.profile([*device.every_point(), *shared]).save(Path(path))
    assert call("show", path) == 0
    assert "shared pages: not timed" not in capsys.readouterr().out


def test_show_says_what_the_longest_decode_costs_where_it_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("show", "rtx-pro-6000/llama-3.1-8b") == 0
    said = "longest decode: from 38 decodes on, 14.3 ns a layer for each token that it has beyond the mean"
    assert said in capsys.readouterr().out

    assert call("show", "h100-sxm/llama-3.1-8b") == 0
    assert "longest decode" not in capsys.readouterr().out


def test_show_as_json_has_all_but_points_and_fits(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", path, "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert found["model"]["name"] == "small"
    assert found["measured"]["sampler"]["points"] == len(device.ROWS)
    assert not {"points", "fits"} & set(found)


def test_show_without_a_profile_lists_those_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show") == 0
    text = capsys.readouterr().out
    assert call("show", "--json") == 0
    found = json.loads(capsys.readouterr().out)["profiles"]

    assert set(found) == set(shipped_profiles())
    assert all(name in text for name in found)


def test_check_fits_again_and_passes(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", path) == 0

    text = capsys.readouterr().out
    assert text.startswith(f"{path}: passed  synthetic/small")
    assert "fitted again from its points; imported, not measured by this project" in text
    assert (
        "measured: attn_decode paged page=16 kv=bf16: 1 to 64 sequences that read 16 to 262,144 tokens"
        in text
    )
    assert (
        "measured: attn_prefill paged page=16 kv=bf16: 16 to 2,048 tokens after 0 to 1,024 cached ones"
        in text
    )


def test_check_fails_where_a_gate_is_not_met(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", path, "--decode-gate", "0.001", "--json") == 1

    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == 1
    assert found["profiles"][0]["passed"] is False
    assert "more than 0.00%" in found["profiles"][0]["failures"][0]


def test_check_fails_where_points_no_longer_give_the_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = device.profile().save(tmp_path / "p.json")
    record = json.loads(path.read_text())
    record["fits"]["sampler"]["slope"] *= 2
    path.write_text(json.dumps(record))

    assert call("check", str(path)) == 1
    assert "failure: the points no longer give the stored fits" in capsys.readouterr().out


def test_check_without_points_shows_stored_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = device.profile().save(tmp_path / "p.json", with_points=False)

    assert call("check", str(path)) == 0
    assert "as stored: the points are not in the file" in capsys.readouterr().out


def test_every_shipped_profile_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert shipped_profiles()
    assert call("check", "--shipped") == 0
    assert capsys.readouterr().out.count(": passed") == len(shipped_profiles())


BAD: list[tuple[tuple[str, ...], str]] = [
    (("check",), "name a profile to check, or give --shipped"),
    (("show", "nowhere.json"), "nowhere.json: No such file or directory"),
    (("check", "h999/none"), "h999/none: No such file or directory"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_wrong_use_is_one_line_and_exit_2(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2

    printed = capsys.readouterr()
    assert printed.err == f"kvsim: {said}\n"
    assert not printed.out
