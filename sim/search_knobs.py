"""What can be searched for: each knob's ladder of values, and which way is harder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kvsim.config import RunConfig
from kvsim.errors import InputError
from kvsim.run import model_len, model_of, prepare_policy, prepare_pool
from kvsim.search_point import Point, Setup

RATE = "rate"
SMALLEST = {
    "num-gpu-blocks": "num_gpu_blocks_override",
    "kv-cache-memory-bytes": "kv_cache_memory_bytes",
    "gpu-memory-utilization": "gpu_memory_utilization",
}
"""Knobs of which as little as possible is wanted, and their setting."""
BEST = {
    "max-num-seqs": "max_num_seqs",
    "max-num-batched-tokens": "max_num_batched_tokens",
    "block-size": "block_size",
}
"""Knobs that can be too small and too large, and their setting."""
KNOBS = (RATE, *SMALLEST, *BEST)

UNITS = {
    RATE: "requests/s",
    "num-gpu-blocks": "blocks",
    "kv-cache-memory-bytes": "bytes of KV",
    "gpu-memory-utilization": "of the GPU's memory",
    "max-num-seqs": "requests at once",
    "max-num-batched-tokens": "tokens a step",
    "block-size": "tokens a block",
}
"""What a value of each knob counts."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """A knob's values as rungs: the higher the rung, the harder to keep to the limits."""

    knob: str
    value: Callable[[int], float]
    """The value of a rung."""
    start: int
    """Rung to try first."""
    step: int
    """Rungs of the first stride."""
    least: int
    most: int

    def point(self, rung: int, seed: int, base: Point) -> Point:
        """Return the run that tries a rung."""
        value = self.value(rung)
        if self.knob == RATE:
            return base._replace(seed=seed, rate=value)
        setting = SMALLEST[self.knob]
        typed = value if setting == "gpu_memory_utilization" else int(value)
        return base._replace(seed=seed, changes=(*base.changes, (setting, typed)))


def rate_ladder(guess: float, precision: float, low: float | None, high: float | None) -> Ladder:
    """Return rates (1 + precision)^k around a guess: from 1/4096 of it to 64 times as much, or as bounded."""
    ratio = math.log1p(precision)

    def value(rung: int) -> float:
        return float(f"{math.exp(rung * ratio):.6g}")

    def rung_above(rate: float) -> int:
        rung = math.ceil(math.log(rate) / ratio - 1e-6)
        return rung + (value(rung) < rate * (1 - 1e-6))

    def rung_below(rate: float) -> int:
        rung = math.floor(math.log(rate) / ratio + 1e-6)
        return rung - (value(rung) > rate * (1 + 1e-6))

    least = rung_above(low) if low is not None else rung_below(guess / 4096)
    most = rung_below(high) if high is not None else rung_above(guess * 64)
    if least > most:
        raise InputError(f"no rate of the ladder lies between {low} and {high}; take a finer --precision")
    stride = max(1, round(math.log(1.1) / ratio))
    return Ladder(RATE, value, rung_below(guess), stride, least, most)


def smallest_ladder(knob: str, setup: Setup, low: float | None, high: float | None) -> Ladder:
    """Return the values of a knob of which little is wanted, largest first."""
    config = setup.config
    policy = prepare_policy(setup.policy, config)
    unit = 0.01
    if knob == "gpu-memory-utilization":
        least, most, start = 1, 100, round(100 * config.gpu_memory_utilization)
    else:
        size = int(getattr(policy, "block_size", config.block_size))
        token_bytes = model_of(config).kv_bytes_per_token(config.kv_cache_dtype, config.tensor_parallel_size)
        unit = 1 if knob == "num-gpu-blocks" else size * token_bytes
        start = max(int(prepare_pool(None, policy, config).kv_bytes // (size * token_bytes)), 2)
        enough = _blocks_for_all(setup, size)
        least, most, start = 2 if knob == "num-gpu-blocks" else 1, max(start, enough), min(start, enough)
    least = least if low is None else max(least, math.ceil(low / unit - 1e-9))
    most = most if high is None else math.floor(high / unit + 1e-9)
    if least > most:
        raise InputError(f"--low {low} and --high {high} leave no value of {knob}")
    stride = 5 if knob == "gpu-memory-utilization" else max(1, min(start, most) // 4)
    percent = knob == "gpu-memory-utilization"
    return Ladder(
        knob, lambda rung: round(-rung * unit, 2) if percent else -rung * unit, -start, stride, -most, -least
    )


def best_values(knob: str, setup: Setup, low: float | None, high: float | None) -> list[int]:
    """Return powers of two between the bounds, which default to what servers use, and the bounds themselves."""
    lows = {"max-num-seqs": 1, "max-num-batched-tokens": 256, "block-size": 8}
    highs = {"max-num-seqs": 1024, "max-num-batched-tokens": 32768, "block-size": 128}
    first = lows[knob] if low is None else _whole("--low", low)
    last = highs[knob] if high is None else _whole("--high", high)
    if knob == "max-num-seqs" and high is None:
        last = max(first, min(last, 1 << (setup.traffic.requests - 1).bit_length()))
    if not 1 <= first <= last:
        raise InputError(f"--low must be from 1 to --high, got {first} and {last}")
    between = [
        1 << power for power in range(first.bit_length(), last.bit_length()) if first < 1 << power < last
    ]
    return sorted({first, *between, last})


def check_knob(knob: str, setup: Setup) -> None:
    """Raise InputError where the knob would have no effect."""
    settings = setup.config
    policy = prepare_policy(setup.policy, settings)
    if knob == "block-size":
        if "block_size" not in policy.parameters():
            raise InputError(f"policy {setup.policy!r} has no block_size to search for")
        others = [settings.changed(block_size=settings.block_size * factor) for factor in (2, 4)]
        if len({prepare_policy(setup.policy, each).parameters()["block_size"] for each in others}) == 1:
            raise InputError(f"policy {setup.policy!r} sets block_size itself; leave it to the search")
    given = [name for name in SMALLEST.values() if getattr(settings, name) != getattr(RunConfig(), name)]
    if knob in SMALLEST and any(name != SMALLEST[knob] for name in given):
        other_flag = next(name for name in given if name != SMALLEST[knob]).replace("_", "-")
        raise InputError(f"--{other_flag} contradicts a search for {knob}; leave it out")


def _blocks_for_all(setup: Setup, block_size: int) -> int:
    """Return blocks that are enough whatever the policy: all requests of a draw and the longest reservations."""
    drawn, longest = setup.traffic.draw(0, 1.0), model_len(setup.config)
    lengths = (drawn.prompt_tokens + drawn.output_tokens).clip(max=longest)
    at_once = min(len(drawn), setup.config.max_num_seqs)
    blocks = int((-(-lengths // block_size)).sum()) + at_once * -(-longest // block_size)
    return 2 * blocks + 1


def _whole(flag: str, value: float) -> int:
    if value != int(value):
        raise InputError(f"{flag} must be a whole number for this knob, got {value:g}")
    return int(value)
