"""`kvsim capacity`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

from kvsim.cli.capacity import capacity
from kvsim.errors import InputError
from kvsim.gpu import gpu_names
from kvsim.zoo import model_names

PAIR = ("--model", "llama-2-7b", "--gpu", "a100-80-sxm")


def kvsim(*arguments: object) -> None:
    app = App(name="kvsim")
    app.command(capacity)
    app([str(argument) for argument in ("capacity", *arguments)], exit_on_error=False)


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as left:
        kvsim(*arguments)
    assert left.value.code == 0
    return capsys.readouterr().out


def records(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(printed(capsys, *arguments, "--json"))["pairs"]
    return found


def test_one_pair_is_a_listing_with_every_number_labelled(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, *PAIR, "--max-model-len", 2048)

    assert out.startswith("llama-2-7b, KV in fp16, on a100-80-sxm:\n")
    numbers = [line for line in out.splitlines() if line.startswith("  ")]
    assert len(numbers) == 9
    assert all(line.split()[-1] in ("computed", "reported", "assumed") for line in numbers)
    assert any(line.split()[-3:] == ["1.00", "GiB", "computed"] for line in numbers)


def test_a_windowed_model_adds_its_layer_groups(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "--model", "gpt-oss-20b", "--gpu", "h100-sxm")

    assert "2 of 12 layers" in out
    assert "requests at once, with layer groups" in out


def test_several_pairs_are_a_table_where_a_misfit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "--model", "llama-3.1-8b, llama-3.1-70b", "--gpu", "l4,b300")

    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert len(rows) == 4
    assert ["does not fit" in row for row in rows] == [False, False, True, False]
    assert "weights take 131.41 GiB of the 22.49 GiB each GPU has" in out


def test_json_holds_plain_numbers_and_what_they_rest_on(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = records(capsys, *PAIR, "--kv-cache-memory-bytes", 2**30, "--max-model-len", 2048)

    assert found["kv_bytes_per_token"] == 524288
    assert found["kv_bytes_per_request"] == found["kv_bytes"] == 2**30
    assert (found["num_blocks"], found["pool_tokens"], found["max_concurrency"]) == (128, 2048, 1.0)
    assert found["basis"]["kv_bytes"] == "computed"  # type: ignore[index]


def test_json_of_a_misfit_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = records(capsys, "--model", "llama-3.1-70b", "--gpu", "l4,b300")

    assert [one["fits"] for one in found] == [False, True]
    assert "weights take" in str(found[0]["problem"])


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (("--kv-cache-dtype", "fp8"), "kv_bytes_per_token", 262144),
        (("--kv-cache-dtype", "int8"), "kv_bytes_per_token", 2 * 32 * 32 * 130),
        (("--tensor-parallel-size", 2), "kv_bytes_per_token", 262144),
        (("--block-size", 32), "kv_bytes_per_block", 32 * 524288),
        (("--num-gpu-blocks-override", 77), "num_blocks", 77),
        (("--weight-bytes", 10**9), "weight_bytes", 10**9),
    ],
)
def test_flags_reach_the_figures(
    capsys: pytest.CaptureFixture[str], flags: tuple[object, ...], key: str, value: int
) -> None:
    (found,) = records(capsys, *PAIR, *flags)

    assert found[key] == value


def test_more_utilization_is_a_larger_pool(capsys: pytest.CaptureFixture[str]) -> None:
    pools = [
        records(capsys, *PAIR, "--gpu-memory-utilization", share)[0]["kv_bytes"] for share in ("0.5", "0.9")
    ]

    assert pools == sorted(pools)  # type: ignore[type-var]
    assert pools[0] != pools[1]


@pytest.mark.parametrize("flags", [(), ("--list",)])
def test_without_a_pair_it_lists_what_it_knows(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    found = json.loads(printed(capsys, *flags, "--json"))

    assert [row["model"] for row in found["models"]] == list(model_names())
    assert [row["gpu"] for row in found["gpus"]] == list(gpu_names())
    assert all(row["source"] for row in found["models"] + found["gpus"])


def test_the_list_marks_unverified_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys).splitlines()

    assert [" no " in row for row in rows if row.startswith(("│ a10g ", "│ a100-80-sxm "))] == [True, False]


def test_notes_name_unverified_rows_scales_and_pools_too_small(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--kv-cache-dtype", "int4", "--gpu-memory-utilization", "0.3")
    out = printed(capsys, "--model", "llama-2-13b", "--gpu", "h100-nvl", *flags, "--max-model-len", 10**6)

    assert "model llama-2-13b is unverified: published size agrees" in out
    assert "GPU h100-nvl is unverified" in out
    assert "int4 counts a 2-byte scale for each head of each token" in out
    assert "cannot hold one request of 1,000,000 tokens: vLLM would refuse to start" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--model", "llama-3.1-70b", "--gpu", "l4"),
            r"weights take 131\.41 GiB of the 22\.49 GiB each GPU has",
        ),
        (("--model", "llama-3.1-70b", "--gpu", "l4,a10g"), r"none of the 2 pairs fits"),
        (("--model", "llama-2-7b"), "--gpu is missing beside --model"),
        (("--gpu", "l4"), "--model is missing beside --gpu"),
        (("--model", "llama-2-7b,", "--gpu", "l4"), "--model must be names with commas between"),
        (("--model", "lama-2-7b", "--gpu", "l4"), "did you mean 'llama-2-7b'"),
        (("--model", "llama-2-7b", "--gpu", "h100"), "unknown GPU 'h100' .*'h100-sxm'"),
        ((*PAIR, "--block-size", "0"), "block_size must be at least 1, got 0"),
        ((*PAIR, "--max-model-len", "0"), "max_model_len must be at least 1, got 0"),
        ((*PAIR, "--gpu-memory-utilization", "1.1"), r"at most 1, got 1\.1"),
        ((*PAIR, "--tensor-parallel-size", "3"), "tensor_parallel_size must divide the 32 query heads"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        kvsim(*arguments)
    assert "\n" not in str(caught.value)


def test_a_configuration_file_is_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama"}))

    (found,) = records(capsys, "--model", path, "--gpu", "a100-80-sxm")

    assert found["kv_bytes_per_token"] == 524288


def test_importing_the_flags_costs_neither_numpy_nor_rich() -> None:
    script = (
        "import sys, kvsim.cli.capacity; sys.exit(any(name in sys.modules for name in ('numpy', 'pandas')))"
    )

    assert subprocess.run([sys.executable, "-W", "error", "-c", script]).returncode == 0
