"""`kvsim verify`: replay runs that were recorded from vLLM, and say where the engine differs."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from kvsim.manifest import Case, CaseConfig
    from kvsim.policy import Policy
    from kvsim.request import Workload
    from kvsim.verify import Verdict


def verify(
    manifest: Path,
    *,
    case: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Replay recorded vLLM runs and compare every step and every request, number for number.

    Prints a line a case, then the first difference of each that has one. Exits with 0 when all are equal and
    with 1 when one differs. The formats of manifests and logs are described in sim/README.md.

    Parameters
    ----------
    manifest
        JSON file that names traces, settings and logs.
    case
        Only the case of this name; may be given several times.
    json
        Print one JSON object instead of text.
    """
    from kvsim.manifest import chosen, read_manifest

    cases = chosen(read_manifest(manifest), list(case))
    width = max(len(one.name) for one in cases)
    verdicts = []
    for number, one in enumerate(cases, 1):
        _progress(f"{number}/{len(cases)} {one.name}")
        verdicts.append(replay(one))
        _progress("")
        if not json:
            print(_line(verdicts[-1], width), flush=True)
    equal = all(verdict.equal for verdict in verdicts)
    if json:
        print(json_text.dumps({"equal": equal, "cases": list(map(_record, verdicts))}, indent=2))
    else:
        if not equal:
            print(f"\nFirst differences\n{_differences(verdicts)}\n")
        print(_summary(verdicts))
    if not equal:
        sys.exit(1)


def replay(case: Case) -> Verdict:
    """Replay one case of a manifest: read its trace, choose its policy, compare."""
    from kvsim.verify import verify_case

    return verify_case(case, case_workload(case), case_policy(case.config))


def case_workload(case: Case) -> Workload:
    """Read the trace of a case, whose rows have to be in order of arrival since logs number them."""
    from kvsim.errors import InputError
    from kvsim.traces.read import read_trace

    case.check_trace()
    workload = read_trace(case.trace, format="rows", hash_block_tokens=case.config.hash_block_tokens)
    for note in workload.notes:
        raise InputError(f"{case.trace.name}: cannot be verified against a log by row: {note}")
    return workload


def case_policy(config: CaseConfig) -> Policy:
    """Return the policy that a case's settings mean: one table for all layers, or explicit groups."""
    from kvsim.policies.paged import PagedPolicy
    from kvsim.policies.prefix import PrefixPolicy
    from kvsim.policies.sliding_window import SlidingWindowPolicy

    if config.groups == [{"type": "full"}]:
        plain = PrefixPolicy if config.enable_prefix_caching else PagedPolicy
        return plain(
            block_size=config.block_size,
            watermark=config.watermark,
            scheduler_reserve_full_isl=config.scheduler_reserve_full_isl,
        )
    return SlidingWindowPolicy(
        block_size=config.block_size,
        kv_groups=json_text.dumps(config.groups),
        enable_prefix_caching=config.enable_prefix_caching,
        prefix_cache_retention_interval=config.prefix_cache_retention_interval,
        watermark=config.watermark,
        scheduler_reserve_full_isl=config.scheduler_reserve_full_isl,
    )


def _progress(text: str) -> None:
    """Keep one line on stderr up to date; say nothing where nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _line(verdict: Verdict, width: int) -> str:
    word = "equal" if verdict.equal else "differs"
    return f"{verdict.case:<{width}}  {word:<7}  {verdict.steps:>8,} steps  {verdict.requests:>6,} requests"


def _differences(verdicts: list[Verdict]) -> str:
    """Lay out the first difference of each case that has one, and why a replay was cut short."""
    rows = [("case", "where", "field", "kvsim", "log")]
    notes = []
    for verdict in verdicts:
        if verdict.difference is not None:
            rows.append((verdict.case, *verdict.difference.words()))
        if verdict.endless:
            notes.append(f"{verdict.case}: {verdict.endless}")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *notes])


def _summary(verdicts: list[Verdict]) -> str:
    equal = sum(verdict.equal for verdict in verdicts)
    steps = sum(verdict.steps for verdict in verdicts)
    requests = sum(verdict.requests for verdict in verdicts)
    return f"{equal} of {len(verdicts)} cases equal: {steps:,} steps, {requests:,} requests"


def _record(verdict: Verdict) -> dict[str, object]:
    difference = verdict.difference
    return {
        "case": verdict.case,
        "equal": verdict.equal,
        "steps": verdict.steps,
        "requests": verdict.requests,
        "difference": None if difference is None else difference._asdict(),
        "endless": verdict.endless,
    }
