"""The work that simulators are compared on, written so that each can read it."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.workloads import CONVERSATION, COST, SLOW_COST, lognormal

ID_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A trace, a pool, and the step costs."""

    name: str
    trace: str
    requests: int
    blocks: int
    cost: tuple[float, ...]
    """A, B, C of A + B · tokens + C · context seconds."""
    fixed_ms: tuple[float, float]
    """What a step costs on average by `cost`, for a simulator that knows no line: with a prefill more, and without."""
    prefix: bool = False
    block_size: int = 16
    id_tokens: int = ID_TOKENS
    max_model_len: int = 131_072
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192

    def write(self, folder: Path) -> Path:
        """Write the settings as JSON."""
        path = folder / "work.json"
        path.write_text(json.dumps(asdict(self)))
        return path


def all_work(requests: int, folder: Path) -> list[Work]:
    """Write the traces and return what is to be replayed; the public trace only where it is."""
    drawn = str(_write_lognormal(requests, folder / "lognormal.jsonl"))
    wide, tight = "log-normal, 24,576 blocks", "log-normal, 2,048 blocks, slower steps"
    found = [
        Work(
            name=wide, trace=drawn, requests=requests, blocks=24_576, cost=numbers(COST), fixed_ms=(8.8, 8.9)
        ),
        Work(
            name=tight,
            trace=drawn,
            requests=requests,
            blocks=2_048,
            cost=numbers(SLOW_COST),
            fixed_ms=(26.4, 14.4),
        ),
    ]
    if not CONVERSATION.exists():
        return found
    with CONVERSATION.open() as file:
        lines = list(itertools.islice(file, requests))
    path = folder / "conversation.jsonl"
    path.write_text("".join(lines))
    for blocks, fixed in ((65_536, (115.0, 50.0)), (16_384, (115.0, 20.0))):
        found.append(
            Work(
                name=f"Mooncake conversation, prefix caching, {blocks:,} blocks",
                trace=str(path),
                requests=len(lines),
                blocks=blocks,
                cost=numbers(COST),
                fixed_ms=fixed,
                prefix=True,
            )
        )
    return found


def numbers(cost: str) -> tuple[float, ...]:
    """Return A, B, C of `linear:A,B,C`."""
    return tuple(float(part) for part in cost.partition(":")[2].split(","))


def _write_lognormal(requests: int, path: Path) -> Path:
    """Write JSON lines as Mooncake publishes them; no two requests share an id."""
    trace, fresh = lognormal(requests), itertools.count()
    columns = (trace.arrival.tolist(), trace.prompt_tokens.tolist(), trace.output_tokens.tolist())
    with path.open("w") as file:
        for arrival, prompt, output in zip(*columns, strict=True):
            row = {
                "timestamp": arrival * 1e3,
                "input_length": prompt,
                "output_length": output,
                "hash_ids": list(itertools.islice(fresh, -(-prompt // ID_TOKENS))),
            }
            file.write(json.dumps(row) + "\n")
    return path
