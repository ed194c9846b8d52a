"""What a recording leaves behind: the trace, the log, and a case in the manifest that names both."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvsim.errors import InputError, nearest
from kvsim.manifest import CaseConfig, Row
from kvsim.record_loop import Recording
from kvsim.record_trace import TraceRow, read_text

CONFIG_ORDER = (
    "num_blocks",
    "block_size",
    "groups",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive",
    "watermark",
    "scheduler_reserve_full_isl",
    "policy",
    "prefix_cache_retention_interval",
    "prefix_caching_hash_algo",
    "async_scheduling",
    "hash_block_tokens",
    "cost_a",
    "cost_b",
    "cost_c",
)
"""Settings that every case has, in the order in which they are written."""


@dataclass(frozen=True, slots=True)
class StoredCase:
    """A case of an existing manifest, as far as recording it again needs it."""

    name: str
    trace: Path
    config: CaseConfig
    detail: bool


class LogFile:
    """A gzip log under a temporary name until `keep`, with the SHA-256 of its text."""

    def __init__(self, target: Path) -> None:
        """Open it, making its folder; InputError where that is not possible."""
        self.target = target
        self._hash = hashlib.sha256()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        except OSError as error:
            raise InputError(f"{target}: cannot be written: {error.strerror}") from error
        self._temporary = Path(name)
        self._raw = os.fdopen(handle, "wb")
        # No name and no time in the header: the same recording gives the same bytes.
        self._packed = gzip.GzipFile("", "wb", fileobj=self._raw, mtime=0)

    def write(self, row: Row) -> None:
        """Append one line."""
        self.write_text(json.dumps(row, separators=(",", ":")) + "\n")

    def write_text(self, text: str) -> None:
        """Append text as it is."""
        data = text.encode()
        self._hash.update(data)
        self._packed.write(data)

    def keep(self) -> str:
        """Give the file its name; return the SHA-256 of its text."""
        self._close()
        os.chmod(self._temporary, 0o644)
        os.replace(self._temporary, self.target)
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Remove what is not kept."""
        self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        self._packed.close()
        self._raw.close()


def config_row(config: CaseConfig) -> Row:
    """Return the configuration as the manifest and the log's header have it."""
    row = {name: getattr(config, name) for name in CONFIG_ORDER}
    if config.max_num_active_seqs is not None:
        row["max_num_active_seqs"] = config.max_num_active_seqs
    return row


def header_row(version: str, config: CaseConfig, info: Row, requests: int) -> Row:
    """Return the log's first line."""
    return {
        "kind": "header",
        "vllm": version,
        "config": config_row(config),
        "info": info,
        "requests": requests,
    }


def summary_row(recording: Recording, info: Row) -> Row:
    """Return the manifest's summary of a recording that has run."""
    requests = recording.requests
    states = [request.status for request in requests]
    return {
        "steps": recording.steps,
        "empty_steps": recording.empty_steps,
        "requests": len(requests),
        "finished": states.count("finished"),
        "rejected": states.count("rejected"),
        "stuck": states.count("stuck"),
        "virtual_s": recording.virtual_s,
        "preemptions": sum(request.preemptions for request in requests),
        "cached_first": sum(request.cached_first or 0 for request in requests),
        "cached_total": sum(request.cached_total for request in requests),
        "scheduled_tokens": sum(request.sched_tokens for request in requests),
        "output_tokens": sum(request.outputs for request in requests),
        "info": info,
    }


def store_trace(folder: Path, stem: str, rows: list[TraceRow]) -> tuple[str, str]:
    """Write a trace once; return its path in the folder and the SHA-256 of its text.

    A trace of that name with other content is left alone: the new one then has its hash in its name.
    """
    text = "".join(row.line() for row in rows)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    name = f"traces/{stem}.jsonl.gz"
    if (folder / name).exists() and read_text(folder / name) != text:
        name = f"traces/{stem}-{sha256[:8]}.jsonl.gz"
    if not (folder / name).exists():
        _whole(folder / name, lambda file: file.write_text(text))
    return name, sha256


def read_cases(folder: Path, version: str) -> Row:
    """Return the manifest of a folder, a new one where there is none; refuse another vLLM's."""
    path = folder / "manifest.json"
    if not path.exists():
        return {"cases": {}, "vllm": version, "sha256": "of the uncompressed text"}
    manifest = _manifest(path)
    if manifest.get("vllm") != version:
        raise InputError(
            f"{path}: holds cases of vLLM {manifest.get('vllm')}, this is {version}; choose another folder"
        )
    return manifest


def add_case(folder: Path, name: str, case: Row, version: str) -> None:
    """Add a case to the folder's manifest, which is read anew, or replace the one of that name."""
    manifest = read_cases(folder, version)
    manifest["cases"][name] = case
    path = folder / "manifest.json"
    handle, temporary = tempfile.mkstemp(prefix=".manifest.json.", dir=folder)
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(manifest, indent=0))
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def stored_cases(path: Path, name: str | None) -> list[StoredCase]:
    """Return one case of a manifest, or all of them when no name is given."""
    cases = _manifest(path)["cases"]
    if name is not None and name not in cases:
        raise InputError(f"{path}: no case {name!r} in the manifest{nearest(name, cases)}")
    return [_stored(path, each, cases[each]) for each in ([name] if name is not None else cases)]


def check_case_name(name: str) -> None:
    """Refuse a name that cannot be a file's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise InputError(f"--case must be letters, digits and _.+- after a letter or digit, got {name!r}")


def _stored(path: Path, name: str, values: object) -> StoredCase:
    place = f"{path.name} case {name!r}"
    if not isinstance(values, dict) or not isinstance(values.get("trace"), str):
        raise InputError(f"{place}: must be an object with trace and config")
    config = CaseConfig.read(values.get("config"), place)
    return StoredCase(name, path.parent / values["trace"], config, bool(values.get("detail")))


def _manifest(path: Path) -> Row:
    try:
        manifest = json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: a manifest is JSON: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("cases"), dict):
        raise InputError(f"{path}: a manifest is an object with `cases`, by name")
    return manifest


def _whole(path: Path, fill: Callable[[LogFile], None]) -> None:
    file = LogFile(path)
    try:
        fill(file)
    except BaseException:
        file.discard()
        raise
    file.keep()
