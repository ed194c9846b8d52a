"""What a cell depends on outside its settings: files by content, kvsim's own code, a user's policy."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import kvsim
from kvsim.errors import InputError
from kvsim.registry import policy_class

PARTS = ("kvsim", "kvsim.policies", "kvsim.traces", "kvsim.calibration")
"""Packages whose code a result depends on; reports and the command line only show it."""
LIBRARIES = ("numpy", "simpy", "pandas", "pyarrow")


class InputFile(NamedTuple):
    """A file or folder that a cell reads."""

    path: str
    """Where it lies on the machine that planned the cell; absolute."""
    sha256: str
    """Hash of its content; of names and contents for a folder."""


def input_file(path: Path, what: str) -> InputFile:
    """Hash a file or folder; InputError, naming what it is for, when it cannot be read."""
    try:
        return InputFile(str(path.resolve()), content_hash(path))
    except OSError as error:
        raise InputError(f"{what} {str(path)!r}: {error.strerror or error}") from error


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files and their names."""
    if not path.is_dir():
        status = path.stat()
        return _file_hash(str(path.resolve()), status.st_mtime_ns, status.st_size)
    digest = hashlib.sha256()
    for inner in folder_files(path):
        digest.update(f"{inner.relative_to(path).as_posix()}\n{content_hash(inner)}\n".encode())
    return digest.hexdigest()


def folder_files(path: Path) -> list[Path]:
    """List a folder's files in an order that does not depend on the file system."""
    return sorted(inner for inner in path.rglob("*") if inner.is_file())


@lru_cache(maxsize=4096)
def _file_hash(path: str, changed: int, size: int) -> str:
    del changed, size  # only there so that a file that was written again is read again
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_hash() -> str:
    """Return the SHA-256 of the code and tables that results depend on."""
    digest = hashlib.sha256()
    for name in PARTS:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        # Only the folder itself: the other packages lie in it or beside it, as installed.
        files = [path for kind in ("*.py", "*.toml") for path in folder.glob(kind)]
        for path in sorted(files):
            digest.update(f"{name}/{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions that a number may depend on."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"kvsim": kvsim.__version__, "python": ".".join(platform.python_version_tuple()[:2])} | found


def policy_source(name: str) -> str | None:
    """Return the SHA-256 of a policy's code that is not kvsim's: its module, and what that imports of its own.

    None for a built-in policy. Modules of the standard library and of other installed packages do not count.
    """
    cls = policy_class(name)
    modules: dict[str, ModuleType] = {}
    for parent in cls.__mro__:
        _collect(parent.__module__, cls.__module__.partition(".")[0], modules)
    if not modules:
        return None
    digest = hashlib.sha256()
    for module in sorted(modules):
        path = modules[module].__file__
        assert path is not None
        # The module's name of a file has the file's path in it, which says nothing about the code.
        digest.update(f"{Path(path).name} {content_hash(Path(path))}\n".encode())
    return digest.hexdigest()


def _collect(name: str, home: str, found: dict[str, ModuleType]) -> None:
    """Add a loaded module and those it imports, if they are the user's own."""
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None)
    if module is None or name in found or path is None or not path.endswith(".py"):
        return
    if name.partition(".")[0] == "kvsim" or not _is_own(path, name, home):
        return
    found[name] = module
    package = name if hasattr(module, "__path__") else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        for imported in _imported(node, package):
            _collect(imported, home, found)


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, *([base] if base else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _is_own(path: str, name: str, home: str) -> bool:
    """Tell a user's file from the standard library's and from installed packages other than the policy's."""
    places = sysconfig.get_paths()
    installed = any(Path(path).is_relative_to(places[key]) for key in ("purelib", "platlib"))
    if installed:
        return name.partition(".")[0] == home
    return not any(Path(path).is_relative_to(places[key]) for key in ("stdlib", "platstdlib"))
