"""Runs one cell in whatever process it was sent to, and turns every failure into a record."""

from __future__ import annotations

import json
import socket
import traceback
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from kvsim.cell_inputs import InputFile, code_hash, content_hash, policy_source
from kvsim.cell_shipping import received
from kvsim.cells import Json, Task
from kvsim.comparison import same_bytes
from kvsim.errors import InputError
from kvsim.experiment_grid import policy_name
from kvsim.request import Workload
from kvsim.run import simulate
from kvsim.trace_settings import TraceSettings

OK, FAILED, OUT_OF_REACH = "ok", "failed", "out of reach"
"""How a cell can end; out of reach means that it must be sent again with the contents of its files."""
CUTS: dict[str, Any] = {"between": None, "sample": None, "head": None, "repeat": None, "scale_rate": None}
"""Trace settings that are applied after reading, so that cells that differ in them share what was read."""


def run_task(task: Task) -> tuple[str, Json]:
    """Run a cell; return its key and its outcome: status, error, summary, and what its numbers rest on."""
    # Through JSON, so that an outcome is the same whether it was computed now or read back.
    return task.key, json.loads(json.dumps(_run(task), default=str))


def _run(task: Task) -> Json:
    try:
        places = {what: _place(task, what, file) for what, file in task.files.items()}
        if missing := [what for what, place in places.items() if place is None]:
            return {"status": OUT_OF_REACH, "missing": missing}
        here = task.located({what: str(place) for what, place in places.items()})
        _check_code(task, policy_name(here.policy))
        return {"status": OK, "error": None} | _outcome(here)
    except (Exception, SystemExit) as error:
        return failure(_one_line(error))


def failure(error: str) -> Json:
    """Return the record of a cell that came to nothing."""
    return {"status": FAILED, "error": error, "summary": {}, "run": {}, "notes": []}


def _outcome(here: Task) -> Json:
    file = here.files.get("trace")
    reading = replace(here.trace, **CUTS)
    whole = _read(reading, None if file is None else file.sha256)
    # Nothing is cut with the seed alone, so it may stay as it is.
    work = here.trace.cut(whole)
    result = simulate(work, here.policy, same_bytes(here.config), measure_capacity=here.measures_capacity)
    run = {name: value for name, value in result.config.items() if name != "settings"}
    return {
        "summary": {name: _plain(value) for name, value in result.summary.items()},
        "run": run | {"seed": here.trace.seed},
        "notes": list(getattr(whole, "notes", ())),
    }


@lru_cache(maxsize=2)
def _read(trace: TraceSettings, sha256: str | None) -> Workload:
    """Read a trace once in this process, however many cells use it; the hash tells an old one from a new one."""
    workload = trace.read()
    if sha256 is not None and content_hash(Path(str(trace.trace))) != sha256:
        raise InputError(f"trace {trace.trace!r} changed while it was read")
    return workload


def _place(task: Task, what: str, file: InputFile) -> Path | None:
    """Find a file of the right content: where it was, or where an earlier task left it; else keep what was sent."""
    original = Path(file.path)
    try:
        if content_hash(original) == file.sha256:
            return original
    except OSError:
        pass  # not on this machine
    return received(file, task.contents.get(what))


def _check_code(task: Task, policy: str) -> None:
    """Refuse to compute with other code than the key says."""
    where = f"a worker on {socket.gethostname()}"
    if code_hash() != task.inputs["code"]:
        raise InputError(
            f"{where} has another kvsim; install the same one everywhere, or start its workers anew"
        )
    if _loaded_source(policy) != task.inputs["policy_source"]:
        raise InputError(f"{where} has loaded another version of policy {policy!r}; start its workers anew")


@cache
def _loaded_source(policy: str) -> str | None:
    """Hash a policy's code when this process loads it; a later edit does not reach what is loaded."""
    return policy_source(policy)


def _plain(value: object) -> object:
    return value.item() if hasattr(value, "item") else value


def _one_line(error: BaseException) -> str:
    """Say what went wrong; where, too, if it is not the user's to mend."""
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"
