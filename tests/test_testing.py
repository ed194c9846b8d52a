"""`check_policy` passes what keeps the contract and names the rule that anything else breaks."""

from __future__ import annotations

import broken_policies as broken
import pytest
from broken_policies import Good

from kvsim.errors import InputError
from kvsim.policy import Lease, Match, Policy, Pool, Span
from kvsim.request import Sequence
from kvsim.testing import check_policy

BROKEN = [
    (broken.KeepsASlot, r"everything was released, but memory is still held"),
    (broken.LosesASlotInSilence, r"memory was lost or freed twice"),
    (broken.GivesTwice, r"slots are live, more than held \+ shared: a slot was given twice, or lost"),
    (broken.NeverFull, r"held \+ reusable \+ external = \d+ slots of a capacity of"),
    (broken.TakesWhenRefusing, r"answered None, which must take nothing, but usage went from Usage\(held="),
    (broken.RemembersRefusals, r"where the calls it had refused were not made: "),
    (broken.ShortLease, r"was asked for \d+ tokens and gave a lease until 50"),
    (broken.ShrinkingLease, r"was asked for \d+ tokens and gave a lease until"),
    (broken.AnswersTrue, r"admit must return a Lease or None, got True"),
    (broken.NumpyLease, r"Lease.until must be a plain int, got np.int64"),
    (broken.NumpyUsage, r"held must be a plain int ≥ 0, got np.int64"),
    (broken.MoreThanAll, r"held \+ reusable \+ external = \d+ slots of a capacity of"),
    (broken.NegativeReusable, r"reusable must be a plain int ≥ 0, got -1"),
    (broken.CountsOnAsking, r"asked twice gave two answers|lookup must change nothing|must take nothing"),
    (broken.ReadsLengthsUnsaid, r"reads_lengths is False, but usage\(\) depends on sequence.computed"),
    (broken.SeesTheFuture, r"without `oracle` in its name reads the true length \(true_tokens\)"),
    (broken.ReadsTheTrace, r"without `oracle` in its name reads the true length \(output_tokens\)"),
    (broken.HitsEverything, r"a match must be 0 ≤ restored ≤ tokens < \d+, one is left to compute"),
    (broken.HitsOutOfNothing, r"hit 1 tokens; only 0 were ever computed"),
    (broken.LooksUpWithEffect, r"lookup must change nothing, but usage\(\) did"),
    (broken.RefusesTheShort, r"refuses\(\) must refuse everything longer than what it refuses"),
    (broken.RefusesWithoutReason, r"refuses\(\d+\) must be None or a reason, got ''"),
    (
        broken.RefusesNothing,
        r"is not refused by refuses\(\d+\), (is alone, and still cannot grow|but cannot be)",
    ),
    (broken.RefusesEverything, r"admitted nothing in any pool"),
    (broken.ForgetsToReset, r"the same calls must get the same answers after a second reset"),
    (broken.Dice, r"the same calls must get the same answers after a second reset"),
    (broken.ChangesItsMind, r"refusal_holds is True, but Sequence.* was refused and then admitted"),
    (broken.CopiesForEver, r"transfers\(\) must be forgotten once returned, got 0.5 the second time"),
    (broken.TooLarge, r"capacity is \d+ slots, but the pool is \d+ tokens of 1"),
    (broken.NoAttention, r"attention must be a tuple of Span with weights > 0, set by reset; got None"),
    (broken.LongReach, r"reach must be 0 … \d+ slots for a final length of \d+, got"),
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
        check_policy(broken.GivesTwice(ahead=9))


def test_an_oracle_may_read_the_true_length() -> None:
    class Oracle(broken.SeesTheFuture):
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
