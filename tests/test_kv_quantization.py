"""Attention-output error of quantised KV: each rule by hand, the order of the dtypes, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.calibration.kv_quantization import Inputs, bits_per_element, measure_errors, quantised
from kvsim.cli.calibrate_kv_error import kv_error
from kvsim.errors import InputError
from kvsim.model import KV_BITS, KV_GROUPS, Model
from kvsim.reports.kv_error import plot_kv_error

SMALL = Inputs(tokens=256, queries=8, heads=2, seeds=(0, 1))
ERRORS = {(row.dtype, row.keys, row.inputs): row.mean for row in measure_errors(SMALL)}


def row(*values: float) -> torch.Tensor:
    """Return one head of one token."""
    return torch.tensor([[values]], dtype=torch.float64)


def test_int4_has_levels_of_a_seventh_of_the_largest_value() -> None:
    assert quantised(row(7, 3.4, -2.6, 0), "int4").tolist() == [[[7, 3, -3, 0]]]


def test_int2_knows_three_values_either_side_of_zero() -> None:
    assert quantised(row(4, 1.9, -2.1, 0), "int2").tolist() == [[[4, 0, -4, 0]]]


def test_two_bits_with_a_zero_point_make_four_levels_from_least_to_largest() -> None:
    values = row(*[0.0] * 29, 1.0, 2.2, 3.0)

    assert quantised(values, "int2-g32").flatten().tolist() == [0.0] * 29 + [1, 2, 3]


def test_groups_have_scales_of_their_own() -> None:
    values = row(*[1.0] * 32, *range(32))

    read = quantised(values, "int4-g32").flatten()

    assert read[:32].tolist() == [1.0] * 32
    assert float((read[32:] - values.flatten()[32:]).abs().max()) == pytest.approx(1, abs=0.05)


def test_a_wide_channel_does_no_harm_to_others_when_channels_have_their_scale() -> None:
    keys = torch.zeros(1, 32, 32, dtype=torch.float64)
    keys[0, :, 0], keys[0, :, 1:] = 300.0, torch.linspace(-1, 1, 31, dtype=torch.float64)

    by_channel, by_token = (quantised(keys, "int4-g32", each) for each in ("channel", "token"))

    assert float((by_channel - keys).abs().max()) < 0.01
    assert float((by_token - keys).abs().max()) > 0.9


@settings(max_examples=30)
@given(
    dtype=st.sampled_from(sorted(KV_BITS)),
    keys=st.sampled_from(["channel", "token"]),
    seed=st.integers(0, 99),
)
def test_every_dtype_reads_back_within_half_a_step(dtype: str, keys: str, seed: int) -> None:
    values = torch.randn(2, 40, 48, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    found = quantised(values, dtype, keys)

    levels = 2.0 ** KV_BITS[dtype][0] - 1 if KV_BITS[dtype][0] < 8 else 30.0
    widest = float(values.amax() - values.amin())
    assert float((found - values).abs().max()) <= widest * (1 if dtype == "int2" else 0.75) / levels
    assert float((quantised(found, dtype, keys) - found).abs().max()) <= 2 * widest / levels


def test_constant_values_are_read_back() -> None:
    for dtype in KV_BITS:
        assert quantised(torch.zeros(1, 3, 64), dtype).tolist() == torch.zeros(1, 3, 64).tolist()


def test_bits_an_element_are_what_the_capacity_counts() -> None:
    model = Model(
        name="m",
        layers=1,
        hidden=1,
        heads=1,
        kv_heads=1,
        head_dim=128,
        ffn=1,
        vocab=1,
        max_position_embeddings=1,
    )

    for dtype in KV_BITS:
        assert bits_per_element(dtype, 128) == 8 * model.kv_bytes_per_token(dtype) / 256


@pytest.mark.parametrize("inputs", ["random", "outliers"])
def test_fewer_bits_are_further_off(inputs: str) -> None:
    order = [("fp32", "tensor"), ("fp16", "tensor"), ("bf16", "tensor"), ("int8", "token"), ("int4", "token")]

    errors = [ERRORS[(*each, inputs)] for each in [*order, ("int2", "token")]]

    assert errors == sorted(errors)
    assert errors[0] < 1e-6
    assert ERRORS["int2-g32", "channel", inputs] < ERRORS["int2-g64", "channel", inputs] < errors[-1]


def test_outliers_hurt_and_scales_by_channel_help_against_them() -> None:
    for dtype in KV_GROUPS:
        by_channel, by_token = (ERRORS[dtype, keys, "outliers"] for keys in ("channel", "token"))
        assert by_channel < by_token
        assert by_token > ERRORS[dtype, "token", "random"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"outlier_channels": 200}, "outlier_channels must be 0 to head_dim 128, got 200"),
        ({"outlier_scale": 0.5}, "outlier_scale must be at least 1, got 0.5"),
        ({"seeds": range(0)}, "seeds must be at least 1, got 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Inputs(**changes)  # type: ignore[arg-type]


def test_an_unknown_dtype_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(InputError, match=r"KV dtype must be one of fp32, .*, got 'int3'"):
        next(measure_errors(SMALL, ["int3"]))


def test_the_command_prints_a_row_a_way_and_what_it_rests_on(capsys: pytest.CaptureFixture[str]) -> None:
    kv_error(dtypes="fp8,int2-g32", tokens=64, queries=2, heads=1, seeds=1)
    lines = capsys.readouterr().out.splitlines()

    assert [line.split()[:3] for line in lines[1:-1]] == [
        ["fp8", "8.000", "tensor"],
        ["int2-g32", "3.000", "channel"],
        ["int2-g32", "3.000", "token"],
    ]
    assert lines[-1].startswith("relative error of attention's output (measured on CPU, torch ")


def test_the_command_writes_a_table_and_a_plot(tmp_path: Path) -> None:
    kv_error(dtypes="bf16,int4-g32", tokens=64, queries=2, heads=1, seeds=1, output=tmp_path / "errors")

    assert sorted(path.name for path in (tmp_path / "errors").iterdir()) == [
        "kv_error.csv", "kv_error.png", "kv_error.svg",
    ]  # fmt: skip
    assert (
        (tmp_path / "errors" / "kv_error.csv")
        .read_text()
        .startswith("dtype,keys,bits,inputs,mean,worst\nbf16,")
    )


def test_the_plot_has_a_place_a_way_and_a_point_a_kind_of_inputs() -> None:
    rows = list(measure_errors(SMALL, ["int4-g32", "fp16"]))

    axes = plot_kv_error(pd.DataFrame([row._asdict() for row in rows]), caption="made up")

    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "fp16\nby tensor\n16 bits", "int4-g32\nby channel\n5 bits", "int4-g32\nby token\n5 bits",
    ]  # fmt: skip
    assert [len(line.get_xdata()) for line in axes.get_lines()] == [3, 3]
    assert axes.get_yscale() == "log"


def test_the_command_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    kv_error(dtypes="bf16", tokens=64, queries=2, heads=1, seeds=1, json=True)
    rows = json.loads(capsys.readouterr().out)["rows"]

    assert [(each["dtype"], each["inputs"]) for each in rows] == [("bf16", "random"), ("bf16", "outliers")]
