"""The README of the policies: its table is complete, and its example runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvsim.policy import parameter_defaults
from kvsim.registry import make_policy, policies
from kvsim.testing import check_policy

README = (Path(__file__).resolve().parents[1] / "policies" / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_runs_and_passes_the_checks_as_printed() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}

    for block in blocks("python"):
        exec(compile(block, "policies/README.md", "exec"), namespace)

    assert "ChunkPolicy" in namespace


def test_the_example_works_as_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "chunks.py").write_text(blocks("python")[0])

    policy = make_policy(f"{tmp_path}/chunks.py:ChunkPolicy:chunk=32")

    assert policy.parameters() == {"chunk": 32}
    check_policy(policy)


def test_the_example_has_at_most_twenty_lines_of_body() -> None:
    body = [line for line in blocks("python")[0].splitlines() if line.startswith(8 * " ")]

    assert len(body) <= 20


@pytest.mark.parametrize("name", policies())
def test_every_policy_is_listed_with_its_parameters_and_defaults(name: str) -> None:
    row = next((line for line in README.splitlines() if line.startswith(f"| `{name}` |")), "")

    for parameter, default in parameter_defaults(policies()[name]).items():
        word = str(default).lower() if default is None or isinstance(default, bool) else str(default)
        assert f"`{parameter}` ({word})" in row
