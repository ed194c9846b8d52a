"""The line under every table and figure: what was run, on what, priced by what."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.result import Result

_BETWEEN = " | "


def provenance_caption(
    *,
    trace: str = "",
    model: str = "",
    gpu: str = "",
    samples: str = "",
    beams: str = "",
    cost: str = "",
    seed: int | None = None,
    version: str = "",
) -> str:
    """Join what is known of a run into one line; what is empty is left out.

    `cost` is the cost model's own label, which says whether it was measured, calibrated or assumed.
    """
    named = {
        "trace": trace,
        "model": model,
        "GPU": gpu,
        "samples": samples,
        "beams": beams,
        "cost": cost,
        "seed": "" if seed is None else str(seed),
        "kvsim": version,
    }
    return _BETWEEN.join(f"{name} {' '.join(value.split())}" for name, value in named.items() if value)


def result_caption(result: Result) -> str:
    """Return the provenance line of a run."""
    config = result.config
    chosen, trace = config["settings"], config["trace"]
    gpus, digest = chosen["tensor_parallel_size"], str(trace["sha256"])[:8]
    return provenance_caption(
        trace=f"{trace['name']} ({trace['requests']:,} requests, sha256 {digest})",
        model=chosen["model"],
        gpu=chosen["gpu"] if gpus == 1 else f"{gpus} × {chosen['gpu']}",
        samples=_above_one(chosen.get("samples", 1)),
        beams=_above_one(chosen.get("beam", 1)),
        cost=config["cost"],
        seed=config.get("seed", 0),
        version=result.environment["kvsim"],
    )


def _above_one(count: int) -> str:
    return str(count) if count > 1 else ""


def common_caption(results: Sequence[Result]) -> str:
    """Return the provenance line of several runs; where they differ, all that occurs."""
    lines = [result_caption(result).split(_BETWEEN) for result in results]
    named = [dict(part.split(" ", 1) for part in line) for line in lines]
    parts = (
        {name: list(dict.fromkeys(line[name] for line in named if name in line)) for name in named[0]}
        if named
        else {}
    )
    return _BETWEEN.join(f"{name} {'; '.join(values)}" for name, values in parts.items())


def fold_caption(caption: str, width: int) -> str:
    """Break a caption into lines of at most `width` characters.

    Between its parts where that is enough, between words where it is not.
    """
    lines: list[str] = []
    for part in caption.split(_BETWEEN):
        joined = f"{lines[-1]}{_BETWEEN}{part}" if lines else part
        if lines and len(joined) <= width:
            lines[-1] = joined
        else:
            lines.extend(textwrap.wrap(part, width, break_on_hyphens=False) or [part])
    return "\n".join(lines)
