"""One good policy, and one for each way of breaking the contract."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from kvsim.policy import Lease, Match, Policy, Pool, Span, Usage
from kvsim.request import Sequence


class Good(Policy):
    """Single tokens on demand, a few ahead."""

    name = "good"

    def __init__(self, *, ahead: int = 4) -> None:
        self.ahead = ahead

    def reset(self, pool: Pool) -> None:
        self.pool = pool
        self.capacity = pool.kv_bytes // pool.token_bytes
        self.spans, self.attention = (Span(None, 1),), pool.spans
        self.held: dict[int, int] = {}

    def refuses(self, tokens: int) -> str | None:
        return f"the pool has {self.capacity} tokens" if tokens > self.capacity else None

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        return self.grow(sequence, match.tokens + tokens)

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        free = self.capacity - sum(self.held.values()) + self.held.get(sequence.index, 0)
        if tokens > free:
            return None
        self.held[sequence.index] = min(tokens + self.ahead, free)
        return Lease(self.held[sequence.index])

    def release(self, sequence: Sequence, finished: bool) -> None:
        del self.held[sequence.index]

    def usage(self, waiting: Sequence | None) -> Usage:
        return Usage(sum(self.held.values()))


class KeepsASlot(Good):
    def release(self, sequence: Sequence, finished: bool) -> None:
        self.held[-1 - sequence.index] = 1
        super().release(sequence, finished)


class LosesASlotInSilence(Good):
    def release(self, sequence: Sequence, finished: bool) -> None:
        super().release(sequence, finished)
        self.capacity -= sequence.index == 7

    def refuses(self, tokens: int) -> str | None:
        return None if tokens < 150 else "too long"


class GivesTwice(Good):
    def usage(self, waiting: Sequence | None) -> Usage:
        return Usage(max(self.held.values(), default=0))


class NeverFull(Good):
    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        self.held[sequence.index] = tokens
        return Lease(tokens)


class TakesWhenRefusing(Good):
    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        lease = super().grow(sequence, tokens)
        if lease is None:
            self.held[sequence.index] = self.held.get(sequence.index, 0) + 1
        return lease


class RemembersRefusals(Good):
    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        lease = super().grow(sequence, tokens)
        self.refused = getattr(self, "refused", 0) + (lease is None)
        return lease and Lease(lease.until if self.refused % 2 else tokens)

    def reset(self, pool: Pool) -> None:
        super().reset(pool)
        self.refused = 0


class ShortLease(Good):
    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        lease = super().grow(sequence, tokens)
        return lease and Lease(min(lease.until, 50))


class ShrinkingLease(Good):
    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        lease = super().grow(sequence, tokens)
        return lease and Lease(lease.until - 5)


class AnswersTrue(Good):
    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Any:
        return super().admit(sequence, match, tokens) is not None


class NumpyLease(Good):
    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        lease = super().grow(sequence, tokens)
        return lease and Lease(np.int64(lease.until))  # type: ignore[arg-type]


class NumpyUsage(Good):
    def usage(self, waiting: Sequence | None) -> Usage:
        return Usage(np.int64(sum(self.held.values())))  # type: ignore[arg-type]


class MoreThanAll(Good):
    def usage(self, waiting: Sequence | None) -> Usage:
        return Usage(sum(self.held.values()), external=self.capacity)


class NegativeReusable(Good):
    def usage(self, waiting: Sequence | None) -> Usage:
        return Usage(sum(self.held.values()), reusable=-1)


class CountsOnAsking(Good):
    def usage(self, waiting: Sequence | None) -> Usage:
        self.asked = getattr(self, "asked", 0) + 1
        return Usage(sum(self.held.values()), external=0 if self.asked % 11 else 1)


class ReadsLengthsUnsaid(Good):
    def usage(self, waiting: Sequence | None) -> Usage:
        live = sum(sequence.computed for sequence in self.sequences.values())
        return Usage(sum(self.held.values()), external=live % 2 if live < self.capacity // 4 else 0)

    def reset(self, pool: Pool) -> None:
        super().reset(pool)
        self.sequences: dict[int, Sequence] = {}

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        self.sequences[sequence.index] = sequence
        return super().grow(sequence, tokens)


class SeesTheFuture(Good):
    def refuses(self, tokens: int) -> str | None:
        return None

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        assert self.pool.true_tokens is not None
        return self.grow(sequence, self.pool.true_tokens(sequence))


class ReadsTheTrace(Good):
    def reset(self, pool: Pool) -> None:
        super().reset(pool)
        self.longest = 0 if pool.workload is None else int(pool.workload.output_tokens.max())


class HitsEverything(Good):
    def lookup(self, sequence: Sequence) -> Match:
        return Match(sequence.tokens)


class HitsOutOfNothing(Good):
    def lookup(self, sequence: Sequence) -> Match:
        return Match(min(1, sequence.tokens - 1))


class LooksUpWithEffect(Good):
    def lookup(self, sequence: Sequence) -> Match:
        self.held[-1] = 1
        return Match()


class RefusesTheShort(Good):
    def refuses(self, tokens: int) -> str | None:
        return "too short" if tokens < 20 else None


class RefusesWithoutReason(Good):
    def refuses(self, tokens: int) -> str | None:
        return "" if tokens > 20 else None


class RefusesNothing(Good):
    def refuses(self, tokens: int) -> str | None:
        return None


class RefusesEverything(Good):
    def refuses(self, tokens: int) -> str | None:
        return "no"


class ForgetsToReset(Good):
    def reset(self, pool: Pool) -> None:
        super().reset(pool)
        self.resets = getattr(self, "resets", 0) + 1

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        lease = super().grow(sequence, tokens)
        return lease and Lease(tokens if self.resets % 2 else lease.until)


class Dice(Good):
    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        lease = super().grow(sequence, tokens)
        return lease and Lease(random.randint(tokens, lease.until))


class ChangesItsMind(Good):
    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        self.asked = getattr(self, "asked", 0) + 1
        return super().admit(sequence, match, tokens) if self.asked % 3 == 0 or not self.held else None


class CopiesForEver(Good):
    def transfers(self) -> float:
        return 0.5


class TooLarge(Good):
    def reset(self, pool: Pool) -> None:
        super().reset(pool)
        self.capacity += 1


class NoAttention(Good):
    def reset(self, pool: Pool) -> None:
        super().reset(pool)
        del self.attention


class LongReach(Good):
    def reach(self, sequence: Sequence, lease: Lease, final: int) -> int:
        return 1 + super().reach(sequence, lease, final)
