"""Flags of the recorder and the configuration they make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvsim.errors import InputError
from kvsim.record_files import config_row, stored_cases
from kvsim.record_flags import make_config, parser

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracle"
NEEDED = ["t.jsonl", "-o", "out", "--num-gpu-blocks-override", "8", "--max-model-len", "64"]


def oracle() -> Path:
    if not ORACLE.is_dir():
        pytest.skip("../shared/oracle is absent")
    return ORACLE


def test_two_numbers_make_a_configuration_with_vllms_defaults() -> None:
    made = make_config(vars(parser().parse_args(NEEDED)), None)

    assert (made.num_blocks, made.max_model_len, made.block_size) == (8, 64, 16)
    assert made.prefix_cache_retention_interval == 0
    assert made.cost_a == 0.0078125
    assert made.groups == [{"type": "full"}]


def test_every_flag_reaches_the_configuration() -> None:
    flags = (
        "--block-size 4 --max-num-seqs 3 --max-num-batched-tokens 9 --no-enable-prefix-caching "
        "--no-enable-chunked-prefill --long-prefill-token-threshold 5 --watermark 0.5 "
        "--long-prefill-token-threshold-adaptive --no-scheduler-reserve-full-isl --scheduling-policy priority "
        '--prefix-cache-retention-interval none --kv-groups [{"type":"swa","window":6}] --async-scheduling '
        "--hash-block-tokens 32 --cost 1,2,3 --max-num-active-seqs 2"
    )
    made = make_config(vars(parser().parse_args(NEEDED + flags.split())), None)

    assert list(config_row(made).values()) == [
        *(8, 4, [{"type": "swa", "window": 6}], 3, 9, 64, False, False, 5, True, 0.5, False, "priority"),
        *(None, "sha256", True, 32, 1.0, 2.0, 3.0, 2),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kv-groups", "[]"], "at least one group"),
        (["--kv-groups", "{"], "not JSON"),
        (["--kv-groups", '[{"type":"mamba"}]'], "a group has type full or swa"),
        (["--kv-groups", '[{"type":"swa"}]'], "a group of type swa has block_size, type, window"),
        (["--kv-groups", '[{"type":"full","window":4}]'], "a group of type full has block_size, type"),
        (["--kv-groups", '[{"type":"swa","window":0}]'], "window must be an integer ≥ 1"),
        (["--block-size", "0"], "must be an integer ≥ 1, got '0'"),
        (["--cost", "1,2"], "must be three numbers"),
        (["--cost", "1,2,nan"], "must be finite"),
        (["--prefix-cache-retention-interval", "some"], "must be an integer ≥ 0 or none"),
        (["--scheduling-policy", "sjf"], "invalid choice"),
    ],
)
def test_a_wrong_flag_is_refused_by_name(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(NEEDED + flags)

    assert f"{flags[0]}: " in (told := capsys.readouterr().err)
    assert message in told


def test_what_is_needed_is_said() -> None:
    with pytest.raises(InputError, match="--max-model-len is needed"):
        make_config({"num_blocks": 4}, None)
    with pytest.raises(InputError, match="--num-gpu-blocks-override must be at least 2"):
        make_config({"num_blocks": 1, "max_model_len": 4}, None)


@pytest.mark.shared
def test_the_shared_configurations_are_written_back_as_they_are() -> None:
    path = oracle() / "manifest.json"
    text = json.loads(path.read_text())["cases"]

    for stored in stored_cases(path, None):
        rewritten = config_row(make_config({}, stored.config))
        assert json.dumps(rewritten) == json.dumps(text[stored.name]["config"])
