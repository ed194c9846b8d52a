"""`kvsim verify` on what was recorded from vLLM, and on recordings that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recording import ROWS, edit_log, record

from kvsim.cli.verify import replay, verify
from kvsim.errors import InputError
from kvsim.manifest import chosen, read_manifest, supported_version
from kvsim.verify import Verdict

MANIFEST = Path(__file__).resolve().parents[2] / "shared" / "oracle" / "manifest.json"
CASES = list(json.loads(MANIFEST.read_text())["cases"]) if MANIFEST.exists() else []


def only(manifest: Path) -> Verdict:
    (case,) = read_manifest(manifest)
    return replay(case)


def change(manifest: Path, **values: Any) -> Path:  # Any: JSON
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | values))
    return manifest


def change_config(manifest: Path, **values: Any) -> Path:
    content = json.loads(manifest.read_text())
    content["cases"]["small"]["config"] |= values
    manifest.write_text(json.dumps(content))
    return manifest


@pytest.mark.shared
@pytest.mark.skipif(not CASES, reason=f"no recorded logs at {MANIFEST.parent}")
@pytest.mark.parametrize("name", CASES)
def test_every_step_and_request_of_a_recorded_case_is_equal(name: str) -> None:
    (case,) = chosen(read_manifest(MANIFEST), [name])

    verdict = replay(case)

    summary = json.loads(MANIFEST.read_text())["cases"][name]["summary"]
    assert verdict.difference is None
    assert (verdict.steps, verdict.requests) == (summary["steps"], summary["requests"])


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("groups", [[{"type": "full"}], [{"type": "full"}, {"type": "swa", "window": 6}]])
@pytest.mark.parametrize("caching", [False, True])
def test_detailed_recordings_are_equal(
    tmp_path: Path, asynchronous: bool, groups: list[Any], caching: bool
) -> None:
    changes = {"async_scheduling": asynchronous, "groups": groups, "enable_prefix_caching": caching}
    manifest = record(tmp_path, num_blocks=9 * len(groups), **changes)

    assert only(manifest).difference is None


@pytest.mark.parametrize("vllm", ["0.32.0", "0.32.1rc1", "0.33.0", "v0.33"])
def test_both_versions_are_accepted(tmp_path: Path, vllm: str) -> None:
    manifest = record(tmp_path, vllm=vllm)

    assert only(manifest).equal


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("t1", 0.5),
        ("sched", [[0, 3]]),
        ("new", [[3, 0]]),
        ("preempt", [9]),
        ("fin", [9]),
        ("run", 9),
        ("wait", 9),
        ("blk", 9),
        ("ctx", 9),
        ("tables", {"0": [[7]]}),
        ("blk_end", 9),
        ("free", [9]),
        ("hashed", [7]),
    ],
)
def test_a_corrupted_step_is_found_with_its_field(tmp_path: Path, field: str, value: object) -> None:
    manifest = record(tmp_path)
    edit_log(manifest, 1 + 4, **{field: value})

    verdict = only(manifest)

    assert verdict.difference is not None
    assert (verdict.steps, verdict.difference.step, verdict.difference.field) == (4, 4, field)
    assert verdict.difference.theirs == value != verdict.difference.ours


def test_the_last_bit_of_a_time_counts(tmp_path: Path) -> None:
    manifest = record(tmp_path)
    edit_log(manifest, 1, t1=0.0079345703125 * (1 + 2**-52))

    difference = only(manifest).difference

    assert difference is not None
    assert difference.field == "t1"


@pytest.mark.parametrize(
    "field", ["status", "finish", "cached_first", "cached_total", "sched_tokens", "outputs"]
)
def test_a_corrupted_request_is_found_with_its_field(tmp_path: Path, field: str) -> None:
    manifest = record(tmp_path)
    edit_log(manifest, -1, **{field: 7})

    verdict = only(manifest)

    assert verdict.difference is not None
    assert verdict.difference[:3] == (None, 3, field)
    assert verdict.requests == 3


def test_a_log_that_goes_on_is_a_difference(tmp_path: Path) -> None:
    manifest = record(tmp_path)
    steps = only(manifest).steps
    edit_log(manifest, 1 + steps, kind="step")

    difference = only(manifest).difference

    assert difference is not None
    assert (difference.step, difference.field, difference.ours) == (steps, "step", None)


def test_a_log_that_stops_early_is_a_difference(tmp_path: Path) -> None:
    manifest = record(tmp_path)
    edit_log(manifest, 3, kind="request")

    difference = only(manifest).difference

    assert difference is not None
    assert (difference.step, difference.field, difference.theirs) == (2, "step", None)


def test_a_request_that_never_fits_is_stuck_behind_the_gate(tmp_path: Path) -> None:
    rows = [*ROWS[:1], {"arrival_s": 0.25, "prompt_len": 30, "output_len": 2}, *ROWS[3:]]
    manifest = record(tmp_path, rows=rows, num_blocks=7)

    assert only(manifest).difference is None


def test_a_request_that_never_fits_is_not_replayed_for_ever(tmp_path: Path) -> None:
    manifest = record(tmp_path)
    change_config(manifest, num_blocks=5, scheduler_reserve_full_isl=False)
    edit_log(manifest, 1, t1=0.0)

    assert only(manifest).difference is not None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vllm": "0.31.2"}, r"recorded from vLLM 0\.31\.2; kvsim knows 0\.32 and 0\.33"),
        ({"vllm": "0.320.0"}, r"0\.320\.0"),
        ({"vllm": None}, r"vllm must be a version like 0\.32\.0, got null"),
        ({"cases": {}}, r"object with `vllm` and `cases`"),
        ({"cases": {"a": 1}}, r"case 'a': must be an object, got 1"),
        ({"cases": {"a": {"log": "x", "config": {}}}}, r"case 'a': trace must be a text, got null"),
        ({"cases": {"a": {"trace": "x", "log": "x"}}}, r"config must be an object of settings, got null"),
        ({"cases": {"a": {"trace": "x", "log": "x", "config": {}}}}, r"config lacks 'num_blocks'"),
    ],
)
def test_a_manifest_that_is_wrong_is_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    manifest = change(record(tmp_path), **values)

    with pytest.raises(InputError, match=message):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_num_seq": 4}, r"config has 'max_num_seq', which kvsim does not know .*'max_num_seqs'"),
        ({"num_blocks": "9"}, r'config num_blocks must be int, got "9"'),
        ({"num_blocks": True}, r"config num_blocks must be int, got true"),
        ({"watermark": None}, r"config watermark must be float, got null"),
        ({"enable_prefix_caching": 1}, r"config enable_prefix_caching must be bool, got 1"),
        ({"policy": "random"}, r"scheduling_policy must be one of .*, got 'random'"),
        ({"max_num_seqs": 99}, r"max_num_batched_tokens must be at least max_num_seqs"),
        ({"groups": [{"type": "mamba"}]}, r"kv_groups\[0\] must be"),
        ({"groups": []}, r"kv_groups must be a list of groups"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    manifest = change_config(record(tmp_path), **values)

    with pytest.raises(InputError, match=message):
        only(manifest)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"surprise": 1}, r"step 2: field 'surprise' is not one that kvsim knows"),
        ({"kind": "note"}, r"row 4: kind must be header, step or request"),
    ],
)
def test_a_log_that_is_malformed_is_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    manifest = record(tmp_path)
    edit_log(manifest, 3, **values)

    with pytest.raises(InputError, match=message):
        only(manifest)


@pytest.mark.parametrize("name", ["small_trace.jsonl.gz", "small_log.jsonl.gz"])
def test_files_are_held_against_the_manifest(tmp_path: Path, name: str) -> None:
    manifest = record(tmp_path)
    (tmp_path / name).write_text('{"kind": "header"}\n')

    with pytest.raises(InputError, match=rf"{name}: its text has sha256 \w+…, the manifest says"):
        only(manifest)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: there is no such file"):
        only(manifest)


def test_the_header_has_to_be_of_the_manifests_version(tmp_path: Path) -> None:
    manifest = change(record(tmp_path), vllm="0.33.0")

    with pytest.raises(InputError, match=r"the header says vLLM 0\.32, the manifest 0\.33"):
        only(manifest)


def test_no_manifest_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")

    with pytest.raises(InputError, match="there is no such file"):
        read_manifest(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"bad\.json: a manifest is JSON"):
        read_manifest(tmp_path / "bad.json")


def test_rows_out_of_order_cannot_be_verified(tmp_path: Path) -> None:
    manifest = record(tmp_path, rows=ROWS[::-1])

    with pytest.raises(InputError, match="came before the one above by arrival"):
        only(manifest)


def test_versions_are_told_by_their_first_two_numbers() -> None:
    assert [supported_version(text, "x") for text in ("0.32.0", "0.33.1.dev2+cpu")] == ["0.32", "0.33"]


def test_command_prints_a_line_a_case_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(record(tmp_path))

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["small", "equal", "23", "steps", "4", "requests"]
    assert lines[1] == "1 of 1 cases equal: 23 steps, 4 requests"


def test_command_exits_with_1_when_a_case_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = record(tmp_path)
    edit_log(manifest, 5, wait=9)

    with pytest.raises(SystemExit, match="1"):
        verify(manifest)
    line, *_, difference, _, summary = capsys.readouterr().out.splitlines()
    assert line.split() == ["small", "differs", "4", "steps", "0", "requests"]
    assert difference.split() == ["small", "step", "4", "wait", "0", "9"]
    assert summary == "0 of 1 cases equal: 4 steps, 0 requests"


def test_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(record(tmp_path), json=True)

    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is True
    assert found["cases"][0]["case"] == "small"


def test_command_wants_cases_that_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no case 'smal' in the manifest \(did you mean 'small'\?\)"):
        verify(record(tmp_path), case=("smal",))
