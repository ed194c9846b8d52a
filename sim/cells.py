"""A cell made ready to run anywhere: its settings, the files it reads, and the hash of all it depends on."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kvsim.cell_inputs import InputFile, code_hash, content_hash, input_file, policy_source, versions
from kvsim.config import RunConfig
from kvsim.errors import InputError, nearest
from kvsim.experiment_grid import Cell, policy_name
from kvsim.policy import parameter_defaults
from kvsim.registry import policy_class
from kvsim.trace_settings import TraceSettings

Json = dict[str, Any]  # Any: what JSON holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One cell as a worker is sent it; paths in its settings are as the user wrote them."""

    key: str
    """SHA-256 of `inputs`; names the cell's file."""
    inputs: Json
    """Everything the outcome depends on."""
    name: str
    """The cell's name, for people."""
    config: RunConfig
    policy: str
    trace: TraceSettings
    measures_capacity: bool
    files: Mapping[str, InputFile]
    """Files it reads, by what they are to it: trace, model, cost, policy."""
    contents: Mapping[str, bytes] = field(default_factory=dict)
    """What those files hold, for a worker that said it cannot reach them."""

    def located(self, places: Mapping[str, str]) -> Task:
        """Return the task with its files where `places` says they lie."""
        changes = {what: places[what] for what in ("model", "cost") if what in places}
        trace = replace(self.trace, trace=places["trace"]) if "trace" in places else self.trace
        policy = self.policy
        if "policy" in places:
            policy = places["policy"] + policy[len(policy_path(policy)) :]
        return replace(self, config=self.config.changed(**changes), policy=policy, trace=trace)


class TaskMaker:
    """Makes the tasks of one experiment, and looks at each file and name once."""

    def __init__(self, folder: Path, place: str) -> None:
        """Resolve relative paths from `folder`; `place` is what messages begin with."""
        self._folder = folder
        self._place = place
        self._files: dict[tuple[str, Path], InputFile] = {}
        self._sources: dict[str, str | None] = {}
        self._known: set[tuple[str, ...]] = set()

    def make(self, cell: Cell) -> Task:
        """Hash what a cell reads, and derive its key from all it depends on.

        Raises InputError for a file that is not there, and for a name or policy parameter nobody knows; other
        settings that cannot work are the cell's own failure when it runs.
        """
        try:
            return self._task(cell)
        except InputError as error:
            raise InputError(f"{self._place}: cell {cell.name}: {error}") from error

    def _task(self, cell: Cell) -> Task:
        config, policy, trace = cell.config, cell.policy, cell.trace
        files = dict(self._inputs(config, policy, trace))
        task = Task(
            key="",
            inputs={},
            name=cell.name,
            config=config,
            policy=policy,
            trace=trace,
            measures_capacity=cell.measures_capacity,
            files=files,
        )
        here = task.located({what: file.path for what, file in files.items()})
        self._check_names(here)
        inputs = self._everything(task.located({what: file.sha256 for what, file in files.items()}), here)
        return replace(task, key=key_of(inputs), inputs=inputs)

    def _everything(self, by_content: Task, here: Task) -> Json:
        """List what the outcome depends on, files by their content, as JSON gives it back."""
        name = policy_name(here.policy)
        if name not in self._sources:
            self._sources[name] = policy_source(name)
        everything = {
            "settings": asdict(by_content.config),
            "policy": by_content.policy,
            "policy_source": self._sources[name],
            "trace": asdict(by_content.trace),
            "measures_capacity": by_content.measures_capacity,
            "shipped_profiles": _shipped_profiles(here),
            "code": code_hash(),
            "versions": versions(),
        }
        plain: Json = json.loads(json.dumps(everything))
        return plain

    def _inputs(
        self, config: RunConfig, policy: str, trace: TraceSettings
    ) -> Iterator[tuple[str, InputFile]]:
        if trace.workload is None and trace.trace is not None:
            yield "trace", self._file("trace", trace.trace)
        if config.model.endswith(".json") or "/" in config.model:
            folder = self._folder / config.model
            yield (
                "model",
                self._file("model", f"{config.model}/config.json" if folder.is_dir() else config.model),
            )
        if config.cost.endswith((".json", ".json.gz")) or (self._folder / config.cost).is_file():
            yield "cost", self._file("cost profile", config.cost)
        if path := policy_path(policy):
            yield "policy", self._file("policy", path)

    def _file(self, what: str, path: str) -> InputFile:
        whole = self._folder / path
        if (what, whole) not in self._files:
            self._files[what, whole] = input_file(whole, what)
        return self._files[what, whole]

    def _check_names(self, here: Task) -> None:
        """Refuse a model, GPU, policy, parameter or workload that is not known."""
        from kvsim.gpu import find_gpu

        if here.trace.workload is not None and here.trace.trace is not None:
            raise InputError("trace and workload are two sources of requests; give one of them")
        if here.trace.workload is None and here.trace.trace is None:
            raise InputError("no requests: give trace = a file, or workload = a name, in base")
        named = (
            here.config.model,
            here.config.gpu,
            here.policy,
            str(here.trace.workload),
            str(here.trace.figures),
        )
        if named in self._known:
            return
        here.config.load_model(here.config.model)
        find_gpu(here.config.gpu)
        _check_parameters(here.policy)
        if here.trace.workload is not None:
            workloads = importlib.import_module("kvsim.traces.workloads")
            workloads.workload(here.trace.workload, **dict(here.trace.figures))
        self._known.add(named)


def key_of(inputs: Json) -> str:
    """Return the hash that stands for inputs: SHA-256 of their JSON with sorted keys."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def policy_path(policy: str) -> str:
    """Return the file of a policy given as file.py:Class; nothing for any other."""
    place = policy_name(policy).rpartition(":")[0]
    return place if place.endswith(".py") else ""


def _check_parameters(policy: str) -> None:
    name = policy_name(policy)
    known = parameter_defaults(policy_class(name))
    texts = [
        part.partition("=")[0].replace("-", "_") for part in policy[len(name) :].split(":") if "=" in part
    ]
    for parameter in texts:
        if parameter not in known:
            raise InputError(
                f"policy {name!r} has no parameter {parameter!r}{nearest(parameter, known)}; it takes "
                f"{', '.join(known) or 'none'}"
            )


def _shipped_profiles(here: Task) -> Json | None:
    """Hash the profiles that come with kvsim, where one of them may price the steps."""
    if "cost" in here.files or here.config.cost.partition(":")[0] in ("roofline", "linear"):
        return None
    shipped = importlib.import_module("kvsim.calibration.profile_file").shipped_profiles()
    chosen = {here.config.cost} & set(shipped) or set(shipped)
    return {name: content_hash(Path(shipped[name])) for name in sorted(chosen)}
