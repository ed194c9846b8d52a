"""An experiment as a TOML file: read with every key checked, and written out in full."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvsim.errors import InputError, nearest
from kvsim.experiment import MOST_CELLS, Experiment
from kvsim.experiment_values import settings_known

TABLES = ("base", "sweep", "zip", "cell")
TEXTS = ("name", "description", "folder")
KEYS = (*TEXTS, "seeds", "max_cells", *TABLES)


def read_experiment(path: Path | str) -> Experiment:
    """Read an experiment; relative paths in it start at its own folder, or at the `folder` it names."""
    place = Path(path)
    table = {key.replace("-", "_"): value for key, value in _parse(place).items()}
    for key in table:
        if key not in KEYS:
            hint = " (a setting belongs in [base])" if key in settings_known() else nearest(key, KEYS)
            raise InputError(f"{place}: unknown key {key!r}{hint}; the file has {', '.join(KEYS)}")
    texts = {key: _text(table, key, place) for key in TEXTS if key in table}
    most = table.get("max_cells", MOST_CELLS)
    if isinstance(most, bool) or not isinstance(most, int):
        raise InputError(f"{place}: max_cells must be a whole number, got {most!r}")
    return Experiment(
        name=texts.get("name", place.stem),
        description=texts.get("description", ""),
        base=_table(table, "base", place),
        sweep=_table(table, "sweep", place),
        zipped=_tables(table, "zip", place),
        cells=_tables(table, "cell", place),
        seeds=table.get("seeds", ()),
        folder=place.parent / texts.get("folder", "."),
        max_cells=most,
        source=str(place),
    )


def write_text(experiment: Experiment, folder: Path) -> str:
    """Return the file, as it would stand in `folder`: ranges written out, keys with underscores, nothing implied."""
    start = Path(os.path.relpath(experiment.folder.resolve(), folder.resolve())).as_posix()
    lines = [
        f"name = {_toml(experiment.name)}",
        *([f"description = {_toml(experiment.description)}"] if experiment.description else []),
        f"folder = {_toml(start)}  # where relative paths start",
        *([f"seeds = {_toml(experiment.seeds)}"] if experiment.seeds else []),
        f"max_cells = {experiment.max_cells}",
    ]
    tables: list[tuple[str, Mapping[str, object]]] = [
        ("[base]", experiment.base),
        ("[sweep]", experiment.sweep),
    ]
    tables += [("[[zip]]", group) for group in experiment.zipped]
    tables += [("[[cell]]", cell) for cell in experiment.cells]
    for heading, table in tables:
        if table:
            lines += ["", heading, *(f"{_key(key)} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _parse(path: Path) -> dict[str, Any]:  # Any: what TOML holds
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error


def _text(table: Mapping[str, Any], key: str, place: Path) -> str:
    value = table[key]
    if not isinstance(value, str) or (key != "description" and not value.strip()):
        raise InputError(f"{place}: {key} must be a text, got {value!r}")
    return value


def _table(table: Mapping[str, Any], key: str, place: Path) -> Mapping[str, Any]:
    found = table.get(key, {})
    if not isinstance(found, Mapping):
        raise InputError(f"{place}: {key} must be a table, [{key}] with keys under it, got {found!r}")
    return found


def _tables(table: Mapping[str, Any], key: str, place: Path) -> list[Mapping[str, Any]]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise InputError(f"{place}: {key} must be tables, each headed [[{key}]] in double brackets")
    return found


def _key(key: str) -> str:
    """Quote a key that is not bare; a dotted one would otherwise become a table."""
    return key if key.isidentifier() and key.isascii() else _toml(key)


def _toml(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if value is None:
        return '"none"'
    if isinstance(value, str):
        # A JSON text is a TOML text but for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
