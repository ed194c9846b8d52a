"""`kvsim calibrate import` writes a profile that reads back, and says what was odd on stderr."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_tables import (
    SMALL,
    aiconfigurator_tables,
    attention_row,
    config_json,
    llmservingsim_tables,
    vidur_tables,
)

from kvsim.calibration.imported import STATEMENT
from kvsim.calibration.importers import FORMATS, import_tables
from kvsim.calibration.profile_file import read_profile
from kvsim.cli.calibrate_import import ImportOptions, import_profile
from kvsim.errors import InputError

MAKERS: dict[str, Callable[[Path], Path]] = {
    "aiconfigurator": aiconfigurator_tables,
    "llmservingsim": llmservingsim_tables,
    "vidur": vidur_tables,
}
GPUS = {"aiconfigurator": "h200-sxm", "llmservingsim": "rtx4090", "vidur": "a100-80-sxm"}


@pytest.mark.parametrize("format_name", FORMATS)
def test_each_format_becomes_a_profile_with_its_points(
    tmp_path: Path, format_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = MAKERS[format_name](tmp_path / "tables")
    output = tmp_path / "profile.json"

    import_profile(
        format_name,
        folder,
        model=str(config_json(tmp_path)),
        options=ImportOptions(gpu=GPUS[format_name]),
        output=output,
    )

    profile = read_profile(output)
    assert (profile.model.heads, profile.gpu, profile.tensor_parallel_size) == (8, GPUS[format_name], 1)
    assert profile.is_imported
    assert profile.points
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"{len(profile.points)} points, {STATEMENT}" in printed.err


def test_warnings_are_in_the_profile_and_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = vidur_tables(tmp_path / "tables"), tmp_path / "profile.json"

    import_profile("vidur", folder, model=str(config_json(tmp_path)), output=output)

    profile = read_profile(output)
    assert "the LM head was not timed" in profile.warnings[0]
    assert all(warning in capsys.readouterr().err for warning in profile.warnings[:1])
    assert profile.host["step"] == pytest.approx(0.4e-3)


def test_the_same_tables_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    folder, model = aiconfigurator_tables(tmp_path / "tables"), str(config_json(tmp_path))
    outputs = [tmp_path / name for name in ("first.json", "again.json", "other.json")]

    for output, seed in zip(outputs, (0, 0, 1), strict=True):
        import_profile(
            "aiconfigurator", folder, model=model, output=output, options=ImportOptions(gpu="b200", seed=seed)
        )

    first, again, other = (output.read_bytes() for output in outputs)
    assert first == again != other


def test_fp8_kv_rows_give_a_profile_of_that_cache(tmp_path: Path) -> None:
    fp8 = {"kv_cache_dtype": "fp8"}
    decode = [attention_row(b, 1, kv, 0.01, **fp8) for b in (1, 2) for kv in (15, 63)]
    prefill = [attention_row(b, q, 0, 0.01, **fp8) for b in (1, 2) for q in (16, 64)]
    folder = aiconfigurator_tables(tmp_path, decode=decode, prefill=prefill)

    found = import_tables("aiconfigurator", folder, SMALL, gpu="h200-sxm", kv_cache_dtype="fp8")

    assert {point.kv_dtype for point in found.points if point.q} == {"fp8"}


def test_an_unknown_format_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"format must be one of .* got 'vidor' \(did you mean 'vidur'\?\)"):
        import_tables("vidor", tmp_path, SMALL)


def test_choices_that_a_format_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="tables of vidur are of one backend; it can't be chosen, got 'trtllm'"
    ):
        import_tables("vidur", tmp_path, SMALL, backend="trtllm")
    with pytest.raises(InputError, match="tables of llmservingsim have KV in bf16 only, got 'fp8'"):
        import_tables("llmservingsim", tmp_path, SMALL, kv_cache_dtype="fp8")
    with pytest.raises(InputError, match="tensor_parallel_size must be at least 1, got 0"):
        import_tables("vidur", tmp_path, SMALL, tensor_parallel_size=0)
