"""Flags of the recorder, under vLLM's names, and the configuration that they make."""

from __future__ import annotations

import argparse
import json
import math
from argparse import BooleanOptionalAction
from dataclasses import fields
from pathlib import Path

from kvsim.errors import InputError
from kvsim.manifest import CaseConfig, Row
from kvsim.record_files import config_row

DEFAULTS: Row = {
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "cost_a": 2.0**-7,
    "cost_b": 2.0**-17,
    "cost_c": 2.0**-26,
}
"""The clock's powers of two keep every time exact, in whatever order it is summed."""
UNUSED_HASH_BLOCK_TOKENS = 512
FLAG_OF = {"num_blocks": "--num-gpu-blocks-override", "policy": "--scheduling-policy"}


def parser() -> argparse.ArgumentParser:
    """Return the recorder's command line."""
    made = argparse.ArgumentParser(
        prog="python -m kvsim.record_vllm",
        description="Record what your vLLM's scheduler does with a trace, in virtual time, without a model "
        "or a device: a log that `kvsim verify` can be held against.",
        argument_default=argparse.SUPPRESS,
    )
    made.add_argument("trace", nargs="?", type=Path, default=None, help="rows as .jsonl or .jsonl.gz")
    made.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the manifest"
    )
    made.add_argument("--case", default=None, metavar="NAME", help="name of the case; default: the trace's")
    made.add_argument(
        "--case-from",
        default=None,
        metavar="MANIFEST[:NAME]",
        help="take configuration and trace from this case, or from every case; flags change them",
    )
    made.add_argument("--overwrite", action="store_true", default=False, help="replace a case of that name")
    made.add_argument(
        "--detail", action=BooleanOptionalAction, help="log block tables and the pool; default: no"
    )
    _scheduler_flags(made)
    _cache_flags(made)
    made.add_argument(
        "--cost",
        type=_cost,
        metavar="A,B,C",
        help="a step takes A + B·tokens + C·context seconds; default: 2⁻⁷,2⁻¹⁷,2⁻²⁶",
    )
    return made


def _scheduler_flags(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("scheduler")
    group.add_argument("--max-model-len", type=_count, metavar="TOKENS", help="longest sequence; needed")
    group.add_argument("--max-num-seqs", type=_count, metavar="N", help="requests that run; default: 256")
    group.add_argument("--max-num-active-seqs", type=_count, metavar="N", help="a lower bound; default: none")
    group.add_argument(
        "--max-num-batched-tokens", type=_count, metavar="TOKENS", help="budget of a step; default: 8192"
    )
    group.add_argument("--enable-chunked-prefill", action=BooleanOptionalAction, help="default: yes")
    group.add_argument(
        "--long-prefill-token-threshold", type=int, metavar="TOKENS", help="cap of a chunk; default: 0, none"
    )
    group.add_argument(
        "--long-prefill-token-threshold-adaptive", action=BooleanOptionalAction, help="default: no"
    )
    group.add_argument("--watermark", type=float, metavar="SHARE", help="of blocks kept free; default: 0")
    group.add_argument("--scheduler-reserve-full-isl", action=BooleanOptionalAction, help="default: yes")
    group.add_argument(
        "--scheduling-policy", dest="policy", choices=("fcfs", "priority"), help="default: fcfs"
    )
    group.add_argument("--async-scheduling", action=BooleanOptionalAction, help="default: no")


def _cache_flags(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("KV cache")
    group.add_argument(
        "--num-gpu-blocks-override",
        dest="num_blocks",
        type=_count,
        metavar="N",
        help="blocks of the pool, the null block included; needed",
    )
    group.add_argument("--block-size", type=_count, metavar="TOKENS", help="default: 16")
    group.add_argument("--enable-prefix-caching", action=BooleanOptionalAction, help="default: yes")
    group.add_argument(
        "--prefix-cache-retention-interval",
        type=_retention,
        metavar="TOKENS|none",
        help="checkpoints that window groups keep; default: 0",
    )
    group.add_argument(
        "--kv-groups",
        dest="groups",
        type=_groups,
        metavar="JSON",
        help='default: [{"type":"full"}]; windows: {"type":"swa","window":64,"block_size":16}',
    )
    group.add_argument(
        "--hash-block-tokens", type=_count, metavar="TOKENS", help="of one hash id; needed with hash_ids"
    )


def make_config(given: Row, base: CaseConfig | None) -> CaseConfig:
    """Make the configuration of the flags that were given, over defaults or an existing case."""
    values = dict(DEFAULTS) if base is None else config_row(base)
    values |= {each.name: given[each.name] for each in fields(CaseConfig) if each.name in given}
    if "cost" in given:
        values |= dict(zip(("cost_a", "cost_b", "cost_c"), given["cost"], strict=True))
    for name in ("num_blocks", "max_model_len"):
        if name not in values:
            raise InputError(f"{FLAG_OF.get(name, '--' + name.replace('_', '-'))} is needed")
    if values["num_blocks"] < 2:
        raise InputError("--num-gpu-blocks-override must be at least 2: block 0 is never used, got 1")
    config = CaseConfig.read(values, "the flags")
    checked_groups(config.groups)
    return config


def checked_groups(groups: object) -> list[Row]:
    """Check explicit layer groups; InputError says which is wrong."""
    if not isinstance(groups, list) or not groups:
        raise InputError("--kv-groups must be a JSON list of at least one group")
    for group in groups:
        kind = group.get("type") if isinstance(group, dict) else None
        if kind not in ("full", "swa"):
            raise InputError(f"--kv-groups: a group has type full or swa, got {json.dumps(group)}")
        allowed = {"type", "block_size"} | ({"window"} if kind == "swa" else set())
        if not set(group) <= allowed or (kind == "swa" and "window" not in group):
            raise InputError(
                f"--kv-groups: a group of type {kind} has {', '.join(sorted(allowed))}, got {json.dumps(group)}"
            )
        for name in allowed - {"type"}:
            if type(group.get(name, 1)) is not int or group.get(name, 1) < 1:
                raise InputError(f"--kv-groups: {name} must be an integer ≥ 1, got {json.dumps(group)}")
    return groups


def _groups(text: str) -> list[Row]:
    try:
        return checked_groups(json.loads(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--kv-groups: ")) from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer ≥ 1, got {text!r}")
    return int(text)


def _retention(text: str) -> int | None:
    if text.lower() == "none":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer ≥ 0 or none, got {text!r}")
    return int(text)


def _cost(text: str) -> tuple[float, float, float]:
    try:
        a, b, c = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be three numbers A,B,C, got {text!r}") from None
    if not all(math.isfinite(each) and each >= 0 for each in (a, b, c)):
        raise argparse.ArgumentTypeError(f"must be finite and ≥ 0, got {text!r}")
    return a, b, c
