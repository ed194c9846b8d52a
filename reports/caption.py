"""The line under every table and figure: what was run, on what, priced by what."""

from __future__ import annotations

import textwrap

_BETWEEN = " | "


def provenance_caption(
    *,
    trace: str = "",
    model: str = "",
    gpu: str = "",
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
        "cost": cost,
        "seed": "" if seed is None else str(seed),
        "kvsim": version,
    }
    return _BETWEEN.join(f"{name} {' '.join(value.split())}" for name, value in named.items() if value)


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
