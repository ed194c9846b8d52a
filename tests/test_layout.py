"""The tree against its own rules: packages, direction of imports, weight of imports, length, docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "sim": "kvsim",
    "policies": "kvsim.policies",
    "traces": "kvsim.traces",
    "calibration": "kvsim.calibration",
    "reports": "kvsim.reports",
}
LEAVES = [name for name in PACKAGES.values() if name != "kvsim"]
HEAVY = {"torch", "matplotlib", "pandas", "pyarrow"}
MOST_LINES = 300
MOST_FUNCTION_LINES = 45

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Import(NamedTuple):
    """One imported module, and where."""

    path: str
    line: int
    module: str
    is_lazy: bool
    is_typing: bool


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def code() -> list[Path]:
    return [path for folder in PACKAGES for path in sources(folder)]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[Import]:
    """List what a file imports; `from a import b` counts as `a` and, in case b is a module, as `a.b`."""

    def visit(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        where = str(path.relative_to(ROOT))
        yield from (Import(where, getattr(node, "lineno", 0), name, lazy, typing) for name in names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy or inside, typing or checking)

    yield from visit(tree(path), False, False)


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def listed(found: list[Import]) -> list[str]:
    """Say each place once."""
    return sorted({f"{each.path}:{each.line} imports {each.module}" for each in found})


def settings() -> dict[str, Any]:  # Any: what TOML holds
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    return found


def package_of(path: Path) -> str:
    folder, *inner = path.parent.relative_to(ROOT).parts
    return ".".join([PACKAGES[folder], *inner])


def test_every_folder_with_python_in_it_is_a_listed_package() -> None:
    found = {package_of(path) for path in code()}

    assert found == set(settings()["packages"])


def test_the_five_folders_are_mapped_to_one_package() -> None:
    assert settings()["package-dir"] == {name: folder for folder, name in PACKAGES.items()}


def test_every_data_file_reaches_the_wheel() -> None:
    patterns: dict[str, list[str]] = settings()["package-data"]
    data = [
        path
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc", ".md", ".png"}
    ]

    assert not [
        str(path.relative_to(ROOT))
        for path in data
        if not any(
            path.match(pattern) for pattern in patterns.get(PACKAGES[path.relative_to(ROOT).parts[0]], [])
        )
    ]


def test_nobody_imports_a_folder_by_its_bare_name() -> None:
    every = [each for folder in (*PACKAGES, "tests") for path in sources(folder) for each in imports(path)]

    assert not listed([each for each in every if is_in(each.module, *PACKAGES) or each.module[:1] == "."])


def test_the_core_imports_none_of_the_other_four() -> None:
    core = [each for path in sources("sim") if "cli" not in path.parts for each in imports(path)]

    assert not listed([each for each in core if is_in(each.module, *LEAVES, "kvsim.cli")])


@pytest.mark.parametrize("folder", [folder for folder in PACKAGES if folder != "sim"])
def test_the_four_never_import_each_other_nor_the_command_line(folder: str) -> None:
    others = [name for name in (*LEAVES, "kvsim.cli") if name != PACKAGES[folder]]
    found = [each for path in sources(folder) for each in imports(path)]

    assert not listed([each for each in found if is_in(each.module, *others)])


def test_the_command_line_imports_the_four_inside_functions() -> None:
    found = [each for path in sources("sim/cli") for each in imports(path)]
    eager = [each for each in found if not each.is_lazy and not each.is_typing]

    assert not listed([each for each in eager if is_in(each.module, *LEAVES, *HEAVY, "simpy")])


@pytest.mark.parametrize(("module", "home"), [("torch", "calibration"), ("matplotlib", "reports")])
def test_a_heavy_library_has_one_home(module: str, home: str) -> None:
    found = [
        each for folder in PACKAGES if folder != home for path in sources(folder) for each in imports(path)
    ]

    assert not listed([each for each in found if is_in(each.module, module)])


@pytest.mark.parametrize("folder", ["sim", "policies"])
def test_nothing_heavy_is_imported_near_the_loop(folder: str) -> None:
    found = [each for path in sources(folder) for each in imports(path)]
    eager = [each for each in found if not each.is_lazy and not each.is_typing]

    assert not listed([each for each in eager if is_in(each.module, *HEAVY)])


def test_a_second_copy_of_the_package_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", "import sim"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 1
    assert "this package is kvsim; imported as 'sim'" in done.stderr


def loaded_by(statements: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after these statements."""
    script = f"import sys\n{statements}\nprint('LOADED', *{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    return set(last.split())


def test_help_loads_nothing_heavy() -> None:
    call = "from contextlib import suppress\nsys.argv = ['kvsim', '--help']\nfrom kvsim.cli import main\n"
    loaded = loaded_by(f"{call}with suppress(SystemExit):\n    main()")

    assert not loaded & {*HEAVY, "simpy", "joblib", "scipy"}


def test_importing_reports_loads_nothing_heavy() -> None:
    loaded = loaded_by("import kvsim.reports")

    assert not loaded & {*HEAVY, "simpy", "joblib", "scipy", "rich", "numpy"}


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in code()}

    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in code()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert not {name: length for name, length in lengths.items() if length > MOST_FUNCTION_LINES}


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    for node in body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        if any(ast.unparse(decorator).endswith(("overload", ".setter")) for decorator in node.decorator_list):
            continue
        yield f"{prefix}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in code()])
def test_every_public_thing_is_documented(path: Path) -> None:
    module = tree(path)
    bare = [name for name, node in public_definitions(module.body) if not ast.get_docstring(node)]

    assert ast.get_docstring(module), "the module has no docstring"
    assert not bare
