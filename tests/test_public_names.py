"""`import kvsim` gives its public names, whatever else of the package has been imported."""

from __future__ import annotations

import importlib
import types

import pytest

import kvsim


@pytest.mark.parametrize("name", kvsim.__all__)
def test_public_name_is_never_taken_by_a_module(name: str) -> None:
    # A submodule of the same name would replace it on the package once it is imported.
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"kvsim.{name}")

    assert not isinstance(getattr(kvsim, name), types.ModuleType)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="kvsim"):
        kvsim.nothing  # noqa: B018
