"""The front door: help is instant and complete, and whatever goes wrong is one line."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import App

import kvsim.cli
from kvsim.cli import COMMANDS, main
from kvsim.traces.generate import generate
from kvsim.traces.write import write_trace


def test_kvsim_alone_prints_help_with_a_line_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    main([])

    printed = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert f"│ {name} " in printed
        assert " ".join(text.split()[:4]) in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_says_what_its_docstring_says(name: str) -> None:
    found = getattr(importlib.import_module(f"kvsim.cli.{name}"), name)
    said = found.help if isinstance(found, App) else inspect.cleandoc(found.__doc__)

    text = said.partition("Parameters\n")[0]
    assert inspect.cleandoc(COMMANDS[name]) == inspect.cleandoc(text).strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--help"])

    assert f"kvsim {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["run", "compare"])
def test_settings_stand_under_headings_with_their_defaults(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([name, "--help"])

    printed = capsys.readouterr().out
    headings = [line.split("─")[1].strip() for line in printed.splitlines() if line.startswith("╭")]
    assert headings == [
        "Trace", "Model, GPU and memory", "Policy", "Engine", "Output", "Settings from a file"
    ]  # fmt: skip
    assert printed.index("--model ") < printed.index("--kv-cache-dtype")
    assert "[default: llama-3.1-8b]" in printed


@pytest.mark.parametrize(
    "arguments", [["nope"], ["run"], ["run", "t.csv", "--blok-size", "8"], ["run", "a", "b"]]
)
def test_wrong_use_is_one_line_and_exit_code_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)

    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("kvsim: ")
    assert printed.err.count("\n") == 1


def test_wrong_use_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom kvsim.cli import main\ntry:\n    main(['run', 't.csv', '--model', 'lama-7b'])\n"
        "except SystemExit:\n    print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "did you mean 'llama-7b'" in done.stderr
    assert not set(done.stdout.split()) & {"pandas", "pyarrow", "matplotlib", "torch", "joblib"}


def test_a_run_told_as_json_loads_no_data_frames(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_trace(generate("chat", 5, rate=6.0, seed=3), path)
    script = (
        f"import sys\nfrom kvsim.cli import main\nmain(['run', {str(path)!r}, '--json'])\nprint(*sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "pyarrow" in done.stdout.splitlines()[-1].split()
    assert not set(done.stdout.splitlines()[-1].split()) & {"pandas", "matplotlib"}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "out/run.json"), 2, "out/run.json: No space left on device"),
    ],
)
def test_what_comes_from_outside_is_one_line(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(kvsim.cli, "app", stop)
    with pytest.raises(SystemExit) as stopped:
        main([])

    assert stopped.value.code == code
    assert capsys.readouterr().err == f"kvsim: {line}\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -c 'from kvsim.cli import main; main()' capacity --list | true",
        shell=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )

    assert done.stderr == ""
