"""Manifests of recorded vLLM runs: cases, their settings, and the logs beside them."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kvsim.cost import LinearCost
from kvsim.errors import InputError, nearest
from kvsim.policy import Pool
from kvsim.request import Workload
from kvsim.scheduler import VLLM_VERSIONS, Limits

Row = dict[str, Any]
"""A line of a log: JSON, so its values are of any type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseConfig:
    """Settings of one recorded run, under vLLM's names; see README.md beside this file."""

    num_blocks: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    cost_a: float
    cost_b: float
    cost_c: float
    block_size: int = 16
    groups: list[Row] = field(default_factory=lambda: [{"type": "full"}])
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    long_prefill_token_threshold_adaptive: bool = False
    watermark: float = 0.0
    scheduler_reserve_full_isl: bool = True
    policy: str = "fcfs"
    prefix_cache_retention_interval: int | None = 0
    prefix_caching_hash_algo: str = "sha256"
    async_scheduling: bool = False
    hash_block_tokens: int | None = None
    max_num_active_seqs: int | None = None

    @classmethod
    def read(cls, values: object, place: str) -> CaseConfig:
        """Check names and types; InputError says which setting is wrong."""
        if not isinstance(values, dict):
            raise InputError(f"{place}: config must be an object of settings, got {_shown(values)}")
        known = {setting.name: str(setting.type) for setting in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise InputError(
                    f"{place}: config has {name!r}, which kvsim does not know{nearest(name, known)}"
                )
            if not _is_of(value, known[name]):
                raise InputError(f"{place}: config {name} must be {known[name]}, got {_shown(value)}")
        for name in list(known)[:7]:
            if name not in values:
                raise InputError(f"{place}: config lacks {name!r}")
        return cls(**values)

    def limits(self, vllm_version: str) -> Limits:
        """Return the scheduler's limits (rule L3: `max_num_active_seqs` is the bound where it is set)."""
        seqs = self.max_num_seqs if self.max_num_active_seqs is None else self.max_num_active_seqs
        return Limits(
            max_model_len=self.max_model_len,
            max_num_seqs=seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            enable_chunked_prefill=self.enable_chunked_prefill,
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            long_prefill_token_threshold_adaptive=self.long_prefill_token_threshold_adaptive,
            scheduling_policy=self.policy,
            async_scheduling=self.async_scheduling,
            vllm_version=vllm_version,
        )

    def pool(self, workload: Workload) -> Pool:
        """Return the pool of so many blocks, the null block included."""
        return Pool.of_blocks(
            self.num_blocks,
            self.max_model_len,
            max_num_batched_tokens=self.max_num_batched_tokens,
            async_scheduling=self.async_scheduling,
            workload=workload,
        )

    def clock(self) -> LinearCost:
        """Return the step cost a + b·tokens + c·context seconds that stands in for a GPU."""
        return LinearCost(self.cost_a, self.cost_b, self.cost_c)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One recorded run of a manifest."""

    name: str
    trace: Path
    log: Path
    trace_sha256: str | None
    log_sha256: str | None
    config: CaseConfig
    vllm_version: str
    """One of `VLLM_VERSIONS`."""

    def check_trace(self) -> None:
        """Compare the trace's hash with the manifest's."""
        _read_text(self.trace, self.trace_sha256)

    def read_log(self) -> Log:
        """Read the log, comparing its hash with the manifest's."""
        log = Log(self.log, _read_text(self.log, self.log_sha256))
        version = supported_version(log.header.get("vllm"), self.log.name)
        if version != self.vllm_version:
            raise InputError(
                f"{self.log.name}: the header says vLLM {version}, the manifest {self.vllm_version}"
            )
        return log


class Log:
    """A recorded log: a header, then the steps, then a row for each request."""

    def __init__(self, path: Path, text: bytes) -> None:
        """Read the header; the rest is parsed as it is asked for."""
        self.path = path
        self._rows = self._parse(text)
        self.header = next(self._rows, {})
        if self.header.get("kind") != "header":
            raise InputError(f"{path.name} row 1: a log starts with its header, not {_shown(self.header)}")
        self._requests: list[Row] = []
        self._ahead: Row | None = None

    def next_step(self) -> Row | None:
        """Return the next step, None after the last."""
        row = next(self._rows, None)
        if row is not None and row["kind"] == "request":
            self._requests.append(row)
            return None
        return row

    def requests(self) -> list[Row]:
        """Return the requests, in row order; to be asked for after the last step."""
        for row in self._rows:
            if row["kind"] != "request":
                raise InputError(f"{self.path.name}: a step after the first request: {_shown(row)}")
            self._requests.append(row)
        return self._requests

    def _parse(self, text: bytes) -> Iterator[Row]:
        for number, line in enumerate(text.splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{self.path.name} row {number}: not JSON: {error}") from error
            if not isinstance(row, dict) or row.get("kind") not in ("header", "step", "request"):
                raise InputError(
                    f"{self.path.name} row {number}: kind must be header, step or request, got {_shown(row)}"
                )
            yield row


def read_manifest(path: Path) -> list[Case]:
    """Read a manifest's cases, in its order; InputError names what is wrong with it."""
    try:
        content = json.loads(_read_text(path, None))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: a manifest is JSON: {error}") from error
    cases = content.get("cases") if isinstance(content, dict) else None
    if not isinstance(cases, dict) or not cases:
        raise InputError(f"{path}: a manifest is an object with `vllm` and `cases`, by name, and has some")
    version = supported_version(content.get("vllm"), path.name)
    return [_case(path, name, values, version) for name, values in cases.items()]


def chosen(cases: list[Case], names: list[str]) -> list[Case]:
    """Return the cases of these names, all for none; an unknown name is answered with the nearest."""
    known = {case.name: case for case in cases}
    for name in names:
        if name not in known:
            raise InputError(f"no case {name!r} in the manifest{nearest(name, known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else cases


def supported_version(text: object, place: str) -> str:
    """Return which of `VLLM_VERSIONS` a version like 0.32.1 belongs to; refuse others by name."""
    found = re.match(r"v?(\d+\.\d+)(?![\d])", text) if isinstance(text, str) else None
    if found is None:
        raise InputError(f"{place}: vllm must be a version like {VLLM_VERSIONS[0]}.0, got {_shown(text)}")
    if found[1] not in VLLM_VERSIONS:
        raise InputError(f"{place}: recorded from vLLM {text}; kvsim knows {' and '.join(VLLM_VERSIONS)}")
    return found[1]


def _case(manifest: Path, name: str, values: object, version: str) -> Case:
    place = f"{manifest.name} case {name!r}"
    if not isinstance(values, dict):
        raise InputError(f"{place}: must be an object, got {_shown(values)}")
    texts = {key: values.get(key) for key in ("trace", "log", "trace_sha256", "log_sha256")}
    for key, value in texts.items():
        if not isinstance(value, str) and (value is not None or "sha256" not in key):
            raise InputError(f"{place}: {key} must be a text, got {_shown(value)}")
    return Case(
        name=name,
        trace=manifest.parent / str(texts["trace"]),
        log=manifest.parent / str(texts["log"]),
        trace_sha256=texts["trace_sha256"],
        log_sha256=texts["log_sha256"],
        config=CaseConfig.read(values.get("config"), place),
        vllm_version=version,
    )


def _read_text(path: Path, sha256: str | None) -> bytes:
    """Read a file, unpacked when it is gzip, and check its hash when one is known."""
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path.name}: the gzip data is damaged or cut short: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if sha256 is not None and (found := hashlib.sha256(text).hexdigest()) != sha256.lower():
        raise InputError(f"{path.name}: its text has sha256 {found[:16]}…, the manifest says {sha256[:16]}…")
    return text


def _is_of(value: object, kind: str) -> bool:
    """Tell whether a JSON value is of a field's type, as that is written above."""
    if value is None:
        return "None" in kind
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    wanted = {"bool": bool, "str": str, "list[Row]": list}.get(kind, int)
    return isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
