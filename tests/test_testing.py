"""`check_policy` passes what keeps the contract and names the rule that anything else breaks."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from kvsim.errors import InputError
from kvsim.policy import Lease, Match, Policy, Pool, Span, Usage
from kvsim.request import Sequence
from kvsim.testing import check_policy


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


BROKEN = [
    (KeepsASlot, r"everything was released, but memory is still held"),
    (LosesASlotInSilence, r"memory was lost or freed twice"),
    (GivesTwice, r"slots are live, more than held \+ shared: a slot was given twice, or lost"),
    (NeverFull, r"held \+ reusable \+ external = \d+ slots of a capacity of"),
    (TakesWhenRefusing, r"answered None, which must take nothing, but usage went from Usage\(held="),
    (RemembersRefusals, r"where the calls it had refused were not made: "),
    (ShortLease, r"was asked for \d+ tokens and gave a lease until 50"),
    (ShrinkingLease, r"was asked for \d+ tokens and gave a lease until"),
    (AnswersTrue, r"admit must return a Lease or None, got True"),
    (NumpyLease, r"Lease.until must be a plain int, got np.int64"),
    (NumpyUsage, r"held must be a plain int ≥ 0, got np.int64"),
    (MoreThanAll, r"held \+ reusable \+ external = \d+ slots of a capacity of"),
    (NegativeReusable, r"reusable must be a plain int ≥ 0, got -1"),
    (CountsOnAsking, r"asked twice gave two answers|lookup must change nothing|must take nothing"),
    (ReadsLengthsUnsaid, r"reads_lengths is False, but usage\(\) depends on sequence.computed"),
    (SeesTheFuture, r"without `oracle` in its name reads the true length \(true_tokens\)"),
    (ReadsTheTrace, r"without `oracle` in its name reads the true length \(output_tokens\)"),
    (HitsEverything, r"a match must be 0 ≤ restored ≤ tokens < \d+, one is left to compute"),
    (HitsOutOfNothing, r"hit 1 tokens; only 0 were ever computed"),
    (LooksUpWithEffect, r"lookup must change nothing, but usage\(\) did"),
    (RefusesTheShort, r"refuses\(\) must refuse everything longer than what it refuses"),
    (RefusesWithoutReason, r"refuses\(\d+\) must be None or a reason, got ''"),
    (RefusesNothing, r"is not refused by refuses\(\d+\), (is alone, and still cannot grow|but cannot be)"),
    (RefusesEverything, r"admitted nothing in any pool"),
    (ForgetsToReset, r"the same calls must get the same answers after a second reset"),
    (Dice, r"the same calls must get the same answers after a second reset"),
    (ChangesItsMind, r"refusal_holds is True, but Sequence.* was refused and then admitted"),
    (CopiesForEver, r"transfers\(\) must be forgotten once returned, got 0.5 the second time"),
    (TooLarge, r"capacity is \d+ slots, but the pool is \d+ tokens of 1"),
    (NoAttention, r"attention must be a tuple of Span with weights > 0, set by reset; got None"),
    (LongReach, r"reach must be 0 … \d+ slots for a final length of \d+, got"),
]


@pytest.mark.parametrize("seed", range(5))
def test_a_good_policy_passes(seed: int) -> None:
    check_policy(Good, seed=seed)
    check_policy(Good(ahead=0), seed=seed, rounds=3)


@pytest.mark.parametrize(("cls", "rule"), BROKEN, ids=[cls.__name__ for cls, _ in BROKEN])
def test_a_broken_policy_is_told_which_rule(cls: type[Policy], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule) as caught:
        check_policy(cls)

    assert f"{cls.__name__}(ahead=4)" in str(caught.value)


def test_the_message_names_the_settings_and_the_step() -> None:
    with pytest.raises(AssertionError, match=r"^GivesTwice\(ahead=9\), step \d+: "):
        check_policy(GivesTwice(ahead=9))


def test_an_oracle_may_read_the_true_length() -> None:
    class Oracle(SeesTheFuture):
        name = "good-oracle"
        refuses = Good.refuses

    check_policy(Oracle)


def test_an_instance_is_cloned_and_left_alone() -> None:
    policy = Good(ahead=2)

    check_policy(policy, rounds=2)

    assert vars(policy) == {"ahead": 2}


def test_a_constructor_that_changes_its_argument_cannot_be_cloned() -> None:
    class Doubles(Good):
        def __init__(self, *, ahead: int = 4) -> None:
            self.ahead = 2 * ahead

    for policy in (Doubles, Doubles(ahead=3)):
        with pytest.raises(AssertionError, match=r"must be stored unchanged as \.ahead, found"):
            check_policy(policy)


def test_a_constructor_that_forgets_its_argument_cannot_be_cloned() -> None:
    class Forgets(Good):
        def __init__(self, *, ahead: int = 4) -> None:
            self.size = ahead

    for policy in (Forgets, Forgets(ahead=3)):
        with pytest.raises(AssertionError, match=r"ahead.* stored unchanged as \.ahead, found 'nothing'"):
            check_policy(policy)


@pytest.mark.parametrize("kind", ["required", "keywords"])
def test_a_constructor_takes_keywords_with_defaults_only(kind: str) -> None:
    class Required(Good):
        def __init__(self, ahead: int) -> None:
            self.ahead = ahead

    class Keywords(Good):
        def __init__(self, **ahead: int) -> None:
            self.ahead = 3

    with pytest.raises(AssertionError, match=r"must be keywords with defaults, not `(\*\*)?ahead`"):
        check_policy(Required if kind == "required" else Keywords)


def test_a_clone_is_a_new_one_of_the_same_class() -> None:
    class Same(Good):
        def clone(self) -> Policy:
            return self

    with pytest.raises(AssertionError, match=r"clone\(\) must return a new Same"):
        check_policy(Same)


@pytest.mark.parametrize("name", ["", "two words", "a:b", "a=b", "a,b", None])
def test_a_name_must_fit_on_the_command_line(name: str) -> None:
    cls = type("Odd", (Good,), {"name": name})

    with pytest.raises(AssertionError, match="name must be a word without"):
        check_policy(cls)


def test_an_exception_of_the_policy_keeps_its_type_and_gets_the_step() -> None:
    class Crashes(Good):
        def release(self, sequence: Sequence, finished: bool) -> None:
            raise KeyError(sequence.index)

    with pytest.raises(KeyError) as caught:
        check_policy(Crashes)

    assert "raised while checking Crashes(ahead=4), step " in caught.value.__notes__[0]


def test_a_pool_turned_down_is_passed_over_unless_it_was_given() -> None:
    class Picky(Good):
        def reset(self, pool: Pool) -> None:
            if len(pool.spans) > 1:
                raise InputError("one span only")
            super().reset(pool)

    check_policy(Picky)
    with pytest.raises(InputError, match="one span only"):
        check_policy(Picky, pool=Pool.of_tokens(500, 100, spans=(Span(None, 1), Span(8, 1))))


def test_a_policy_that_turns_every_pool_down_does_not_pass() -> None:
    class Never(Good):
        def reset(self, pool: Pool) -> None:
            raise InputError("not today")

    with pytest.raises(
        AssertionError, match="admitted nothing in any pool; last turned down with: not today"
    ):
        check_policy(Never)


def test_an_input_error_after_reset_is_a_defect() -> None:
    class Late(Good):
        def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
            raise InputError("too late")

    with pytest.raises(AssertionError, match=r"Late\(ahead=4\), step 1: InputError outside reset: too late"):
        check_policy(Late)


def test_a_given_pool_is_used_for_every_round() -> None:
    sizes = []

    class Notes(Good):
        def reset(self, pool: Pool) -> None:
            super().reset(pool)
            sizes.append(self.capacity)

    check_policy(Notes, rounds=2, pool=Pool.of_tokens(333, 100))

    assert set(sizes) == {333}
