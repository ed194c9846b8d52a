"""What a run measured: summary, a row a request, a row a stretch of time; saved with its provenance."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import kvsim
from kvsim.engine import COMPLETED, REJECTED, Simulation
from kvsim.errors import InputError
from kvsim.itl import itl_columns
from kvsim.ledger import CATEGORIES
from kvsim.request import FloatColumn
from kvsim.summary import Columns, summarise

if TYPE_CHECKING:
    import pandas as pd

STATUS = {0: "unfinished", COMPLETED: "completed", REJECTED: "rejected"}
FORMAT_VERSION = 1


class Result:
    """Summary, requests and timeline of one run.

    `summary` is a dict of numbers whose keys are those of `vllm bench serve` where it has them;
    `requests`, `timeline`, `itl` and, where one was recorded, `memory_map` are DataFrames (columns in
    `reports/README.md`).
    """

    def __init__(
        self,
        config: dict[str, Any],  # Any: JSON
        summary: dict[str, Any],
        requests: dict[str, Any],
        timeline: dict[str, Any],
        more: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Hold columns; DataFrames are made when first asked for. `more` are those a run may be without."""
        self.config = config
        self.summary = summary
        self.environment = environment()
        self._requests = requests
        self._timeline = timeline
        self.more = more or {}
        """Columns of `itl` and `memory_map`, where there are any."""

    @classmethod
    def of(cls, simulation: Simulation, config: dict[str, Any], goodput: str | None = None) -> Result:
        """Read the outcome of a simulation that has run."""
        columns = Columns.of(simulation)
        if simulation.endless is not None:
            config = config | {"ended_early": simulation.endless}
        summary = summarise(simulation, columns, goodput)
        gaps = simulation.replica.ledger.gaps
        more = {"itl": itl_columns(*gaps.distribution())}
        return cls(config, summary, request_columns(columns), timeline(simulation), more)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row a request, in trace order."""
        import pandas as pd

        return pd.DataFrame(self._requests)

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """One row a stretch of steps; memory as mean shares of the pool."""
        import pandas as pd

        return pd.DataFrame(self._timeline)

    @cached_property
    def itl(self) -> pd.DataFrame | None:
        """One row a quantile of the time between two tokens of a request; None from an older folder."""
        return self._further("itl")

    @cached_property
    def memory_map(self) -> pd.DataFrame | None:
        """One row a patch of the pool that looks the same for a while; None when none was recorded."""
        return self._further("memory_map")

    def save(self, folder: Path | str) -> Path:
        """Write run.json and a Parquet file a frame into a new or empty folder, all or nothing."""
        record = {
            "format": "kvsim-run",
            "version": FORMAT_VERSION,
            "config": self.config,
            "summary": self.summary,
            "environment": self.environment,
        }
        with whole_folder(Path(folder)) as working:
            (working / "run.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
            self.requests.to_parquet(working / "requests.parquet", index=False)
            self.timeline.to_parquet(working / "timeline.parquet", index=False)
            for name, frame in (("itl", self.itl), ("memory_map", self.memory_map)):
                if frame is not None:
                    frame.to_parquet(working / f"{name}.parquet", index=False)
        return Path(folder)

    def _further(self, name: str) -> pd.DataFrame | None:
        import pandas as pd

        return pd.DataFrame(self.more[name]) if name in self.more else None

    def _repr_html_(self) -> str:
        """Show the summary as a table in a notebook."""
        # By name, since the core knows none of the packages that build on it.
        html: str = importlib.import_module("kvsim.reports.notebook").result_html(self)
        return html

    def __repr__(self) -> str:
        """Name the policy and the trace."""
        done, trace = self.summary["completed"], self.config.get("trace", {})
        return f"<Result {self.config.get('policy')} on {trace.get('name', '')!r}: {done} completed>"


def load_result(folder: Path | str) -> Result:
    """Read a folder that `Result.save` wrote."""
    import pandas as pd

    path = Path(folder) / "run.json"
    try:
        record = json.loads(path.read_text())
        frames: dict[str, dict[str, Any]] = {
            name: {str(key): column for key, column in pd.read_parquet(file).items()}
            for name in ("requests", "timeline", "itl", "memory_map")
            if (file := path.with_name(f"{name}.parquet")).exists() or name in ("requests", "timeline")
        }
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: not a run folder: {error}") from error
    if record.get("format") != "kvsim-run" or record.get("version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: format must be kvsim-run version {FORMAT_VERSION}, got {record.get('version')!r}"
        )
    requests, timeline = frames.pop("requests"), frames.pop("timeline")
    result = Result(record["config"], record["summary"], requests, timeline, frames)
    result.environment = record["environment"]
    return result


def new_folder(folder: Path) -> Path:
    """Check that results can go there, and leave nothing: it must not exist, or be empty."""
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"output {str(folder)!r} exists and is not a folder")
    try:
        if target.exists() and any(target.iterdir()):
            raise InputError(f"output folder {str(folder)!r} exists and is not empty; name a new one")
        above = next(parent for parent in target.parents if parent.exists())
        # Permission bits do not tell: root has none, and a read-only file system ignores them.
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise InputError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error
    return target


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill that takes its name at the end; whatever fails before leaves nothing."""
    target = new_folder(folder)
    working = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A killed process of the same number may have left one.
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir()
        yield working
        if target.exists():
            target.rmdir()
        working.rename(target)
    except OSError as error:
        raise InputError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(working, ignore_errors=True)


def request_columns(columns: Columns) -> dict[str, Any]:
    """Return the columns of requests.parquet."""
    return {
        "arrival_s": columns.arrival,
        "first_scheduled_s": columns.first_scheduled,
        "first_token_s": columns.first_token,
        "finish_s": columns.finish,
        "prompt_tokens": columns.prompt,
        "output_tokens": columns.output,
        "cached_tokens": columns.cached,
        "recomputed_tokens": columns.recomputed,
        "preemptions": columns.preemptions,
        "ttft_ms": columns.ttft_ms,
        "tpot_ms": columns.tpot_ms,
        "e2el_ms": columns.e2el_ms,
        "status": np.array([STATUS[code] for code in range(len(STATUS))], dtype=object)[columns.status],
        "reason": _reasons(columns),
        "readmission_cached_tokens": columns.readmission_hits,
    }


def _reasons(columns: Columns) -> NDArray[np.object_]:
    reasons = np.full(len(columns.arrival), "", dtype=object)
    for row, reason in columns.reasons.items():
        reasons[row] = reason
    return reasons


def timeline(simulation: Simulation) -> dict[str, FloatColumn]:
    """Return the columns of timeline.parquet: integrals of each row divided by its length."""
    ledger = simulation.replica.ledger
    raw = ledger.timeline.columns
    seconds = raw["end_s"] - raw["start_s"]
    shares = {name: raw[name] / (seconds * ledger.capacity) for name in CATEGORIES}
    held = shares["live"] + shares["reserved"] + shares["internal"]
    counts = {name: raw[name] / seconds for name in ("running", "waiting")}
    plain = {name: raw[name] for name in ("start_s", "end_s", "steps", "tokens")}
    return plain | counts | shares | {"kv_cache_usage": held}


def environment() -> dict[str, str]:
    """Return what the run's numbers may depend on besides its inputs."""
    return {
        "kvsim": kvsim.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
    }
