"""Where a measured run was recorded, and the settings that its record states where no flag says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, ArgumentCollection, Parameter, Token

from kvsim.cli.flags import OUTPUT, TRACE, fill_from_file

if TYPE_CHECKING:
    from kvsim.measured_compare import Within

Arrivals = Literal["measured", "trace"]

PROFILE_FIELDS = ("model", "gpu")
"""Taken from the cost profile where neither a flag nor the record has them."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """The record of a measured run, and how near a replay must come."""

    measured: Annotated[Path, Parameter(group=TRACE)]
    """What it measured: a folder with requests.jsonl, or a result of `vllm bench serve --save-detailed`."""
    server_log: Annotated[Path | None, Parameter(group=TRACE)] = None
    """Log of the vLLM server, for its arguments and the size of its KV pool."""
    replay_arrivals: Annotated[Arrivals, Parameter(group=TRACE)] = "measured"
    """When requests arrive: as measured, so that the client's jitter counts for nothing, or as in the trace."""
    within: Annotated[str, Parameter(group=OUTPUT)] = "5,10"
    """Largest difference in percent: MEANS,PERCENTILES, the first for makespan and throughput too, or one number."""

    def limits(self) -> Within:
        """Return what `within` says."""
        from kvsim.errors import InputError
        from kvsim.measured_compare import Within

        try:
            numbers = [float(part) / 100 for part in self.within.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or not all(number >= 0 for number in numbers):
            raise InputError(
                f"--within must be percent, as in 5 or 5,10 for means and percentiles, got {self.within!r}"
            )
        return Within(numbers[0], numbers[-1])


def fill_from_record(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in what no flag says: from --config, then --server-log, then the record, then the cost profile."""
    from kvsim.errors import InputError
    from kvsim.measured_bench import read_measured
    from kvsim.measured_settings import read_server_log

    fill_from_file(app, commands, arguments)
    given = {name: _text(arguments, f"--{name}") for name in ("measured", "server-log", "block-size")}
    if given["server-log"] is not None:
        size = given["block-size"]
        if size is not None and not size.isdecimal():
            raise InputError(f"--block-size must be a whole number, got {size!r}")
        path = Path(given["server-log"])
        _fill(arguments, read_server_log(path, int(size or 16))[0], str(path))
    if given["measured"] is not None:
        path = Path(given["measured"])
        _fill(arguments, dict(read_measured(path).settings), str(path))
    _fill(arguments, {"async_scheduling": True}, "vLLM's default")
    _fill_from_profile(arguments)
    if _text(arguments, "--gpu") is None:
        raise InputError("which GPU was this measured on? Give --gpu, or its profile as --cost GPU/MODEL")


def _fill(arguments: ArgumentCollection, settings: dict[str, object], source: str) -> None:
    pool = ("num_gpu_blocks_override", "kv_cache_memory_bytes")
    is_sized = any(_text(arguments, _flag(name)) is not None for name in pool)
    for name, value in settings.items():
        if name in pool and is_sized:
            continue
        argument = arguments[_flag(name)]
        if not argument.tokens:
            argument.append(Token(keyword=argument.name, value=str(value), source=source))


def _fill_from_profile(arguments: ArgumentCollection) -> None:
    """Take GPU and model from a profile that is named by its path or as <gpu>/<model>."""
    cost = _text(arguments, "--cost")
    missing = [name for name in PROFILE_FIELDS if _text(arguments, _flag(name)) is None]
    if (
        cost is None
        or not missing
        or cost == "calibrated"
        or cost.partition(":")[0] in ("roofline", "linear")
    ):
        return
    from kvsim.calibration.cost_choice import find_profile
    from kvsim.config import RunConfig
    from kvsim.gpu import gpu_names
    from kvsim.zoo import model_names

    profile = find_profile(cost, RunConfig())
    known = {"model": model_names(), "gpu": gpu_names()}
    found = {"model": profile.model.name, "gpu": profile.gpu}
    _fill(arguments, {name: found[name] for name in missing if found[name] in known[name]}, cost)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(arguments: ArgumentCollection, flag: str) -> str | None:
    tokens = arguments[flag].tokens
    return tokens[-1].value if tokens else None
