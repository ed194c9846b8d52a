"""Contiguous reservation: the vLLM paper's worked figures, then holes, spans and refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import InputError
from kvsim.policies.contiguous import ContiguousPolicy
from kvsim.policy import NO_MATCH, Pool, Span, Usage
from kvsim.request import Sequence

ORCA_SLOTS = 12 * 2**30 // 819_200
"""KV slots of OPT-13B in 12 GiB (vLLM paper, Table 1): 15,728."""


def started(pool: Pool, **parameters: object) -> ContiguousPolicy:
    """Make a policy and hand it the pool."""
    policy = ContiguousPolicy(**parameters)  # type: ignore[arg-type]
    policy.reset(pool)
    return policy


def fill(policy: ContiguousPolicy, prompt_tokens: int = 100, most: int = 1000) -> list[Sequence]:
    """Admit equal sequences until one is refused."""
    sequences = (Sequence(index, 0.0, prompt_tokens) for index in range(most))
    admitted = []
    for sequence in sequences:
        if policy.admit(sequence, NO_MATCH, prompt_tokens) is None:
            return admitted
        admitted.append(sequence)
    return admitted


@pytest.mark.parametrize("placement", ["first-fit", "best-fit", "buddy"])
def test_orca_max_holds_seven_and_leaves_the_published_external_share(placement: str) -> None:
    """OPT-13B: ⌊15,728 / 2048⌋ = 7.00 requests (Fig. 13), external 8.9 % (Fig. 2)."""
    policy = started(Pool.of_tokens(ORCA_SLOTS, 2048), placement=placement)

    assert len(fill(policy)) == 7

    usage = policy.usage(Sequence(99, 0.0, 100))
    assert usage == Usage(held=7 * 2048, external=ORCA_SLOTS - 7 * 2048)
    assert round(100 * usage.external / policy.capacity, 2) == 8.85


def test_a_reservation_of_2048_for_ten_tokens_never_uses_2038() -> None:
    """Fig. 3 of the vLLM paper."""
    policy = started(Pool.of_tokens(4096, 2048))
    lease = policy.admit(Sequence(0, 0.0, 7), NO_MATCH, 7)

    assert lease is not None
    assert policy.usage(None).held - policy.reach(Sequence(0, 0.0, 7), lease, final=10) == 2038


def test_a_reservation_of_512_for_five_tokens_never_uses_507() -> None:
    """The second request of the same figure."""
    policy = started(Pool.of_tokens(4096, 512))
    lease = policy.admit(Sequence(0, 0.0, 3), NO_MATCH, 3)

    assert lease is not None
    assert lease.until - 5 == policy.usage(None).held - policy.reach(Sequence(0, 0.0, 3), lease, 5) == 507


def test_a_gibibyte_reserved_for_51_tokens_is_wasted_to_97_5_percent() -> None:
    """Llama-2-7B: 2 · 32 layers · 4096 · 2 bytes a token, so that 2048 tokens are 1 GiB."""
    policy = started(Pool(kv_bytes=2**30, token_bytes=2 * 32 * 4096 * 2, max_model_len=2048))
    lease = policy.admit(Sequence(0, 0.0, 1), NO_MATCH, 1)

    assert lease is not None
    assert policy.capacity == policy.usage(None).held == 2048
    assert round(1 - policy.reach(Sequence(0, 0.0, 1), lease, final=51) / policy.capacity, 3) == 0.975


@pytest.mark.parametrize(
    ("reservation", "placement", "until"),
    [
        ("max", "first-fit", 1500),
        ("max", "buddy", 2048),
        ("oracle", "first-fit", 900),
        ("oracle", "buddy", 1024),
        # A prompt of 10 and 891 outputs, of which the last takes no slot.
        ("pow2", "first-fit", 10 + 1024),
        ("pow2", "best-fit", 10 + 1024),
        ("pow2", "buddy", 2048),
    ],
)
def test_a_lease_lasts_as_long_as_the_piece(reservation: str, placement: str, until: int) -> None:
    pool = Pool.of_tokens(4096, 1500, true_tokens=lambda sequence: 900)
    policy = started(pool, reservation=reservation, placement=placement)
    sequence = Sequence(3, 0.0, 10)

    lease = policy.admit(sequence, NO_MATCH, 10)

    assert lease is not None
    assert lease.until == policy.usage(None).held == until
    assert policy.occupied() == [(0, until, 3)]
    assert policy.grow(sequence, until) == lease
    assert policy.grow(sequence, until + 1) is None


def test_pow2_never_reserves_beyond_max_model_len() -> None:
    policy = started(Pool.of_tokens(4096, 1500, true_tokens=lambda sequence: 1100), reservation="pow2")

    lease = policy.admit(Sequence(0, 0.0, 10), NO_MATCH, 10)

    assert lease is not None
    assert lease.until == 1500


@given(st.integers(1, 100), st.integers(1, 2000))
def test_pow2_reserves_less_than_twice_the_outputs(prompt: int, outputs: int) -> None:
    pool = Pool.of_tokens(8192, 4096, true_tokens=lambda sequence: prompt + outputs - 1)
    policy = started(pool, reservation="pow2")

    policy.admit(Sequence(0, 0.0, prompt), NO_MATCH, prompt)

    assert prompt + outputs <= policy.usage(None).held < prompt + 2 * outputs


def test_pow2_is_cut_to_what_the_pool_can_give() -> None:
    policy = started(Pool.of_tokens(700, 800, true_tokens=lambda sequence: 620), reservation="pow2")

    lease = policy.admit(Sequence(0, 0.0, 10), NO_MATCH, 10)

    assert lease is not None
    assert lease.until == 700


def test_a_hole_between_two_sequences_is_external_only_to_what_it_cannot_take() -> None:
    lengths = [300, 200, 400, 250, 150]
    pool = Pool.of_tokens(1000, true_tokens=lambda sequence: lengths[sequence.index])
    policy = started(pool, reservation="oracle")
    first, second, third, fourth, fifth = (Sequence(index, 0.0, 100) for index in range(5))
    for sequence in (first, second, third):
        assert policy.admit(sequence, NO_MATCH, 100)
    policy.release(second, finished=True)

    assert policy.admit(fourth, NO_MATCH, 100) is None
    assert policy.usage(fourth) == Usage(held=700, external=300)
    assert policy.usage(fifth) == Usage(held=700, external=100)
    assert policy.usage(None) == Usage(held=700)
    assert policy.occupied() == [(0, 300, 0), (500, 400, 2)]
    assert policy.holes() == [(300, 200), (900, 100)]


def test_spans_weigh_a_token_by_the_ratio_of_their_layers() -> None:
    spans = (Span(None, 4), Span(1024, 20))
    policy = started(Pool.of_tokens(1000, 300, spans=spans))

    policy.admit(Sequence(0, 0.0, 10), NO_MATCH, 10)

    assert policy.spans == (Span(None, 1), Span(1024, 5))
    assert policy.attention == spans
    assert policy.capacity == 6000
    assert policy.usage(Sequence(1, 0.0, 10)) == Usage(held=1800)


def test_an_override_is_memory_for_so_many_blocks() -> None:
    assert started(Pool.of_blocks(11, 100)).capacity == 176
    assert started(Pool.of_blocks(11, 100), block_size=32).capacity == 352


@pytest.mark.parametrize(
    ("tokens", "parameters", "reason"),
    [
        (800, {"placement": "buddy"}, None),
        (801, {}, "801 tokens are more than max_model_len 800"),
        (513, {"reservation": "oracle", "placement": "buddy"}, "piece of 1024 token slots; the largest"),
        (512, {"reservation": "oracle", "placement": "buddy"}, None),
        (700, {"reservation": "oracle"}, None),
        (701, {"reservation": "oracle"}, "piece of 701 token slots; the largest this pool can give has 700"),
        (700, {"reservation": "pow2"}, None),
        (701, {"reservation": "pow2"}, "piece of 701 token slots; the largest this pool can give has 700"),
    ],
)
def test_what_no_piece_can_hold_is_refused_with_the_numbers(
    tokens: int, parameters: dict[str, object], reason: str | None
) -> None:
    slots = 1024 if reason is None and "reservation" not in parameters else 700
    policy = started(Pool.of_tokens(slots, 800, true_tokens=lambda sequence: tokens), **parameters)

    refusal = policy.refuses(tokens)

    assert refusal is None if reason is None else reason in str(refusal)


def test_a_pool_smaller_than_max_model_len_refuses_every_length_under_max() -> None:
    policy = started(Pool.of_tokens(700, 800))

    assert "reserve a contiguous piece of 800 token slots" in str(policy.refuses(1))
    assert fill(policy) == []


@pytest.mark.parametrize(
    ("reservation", "name"),
    [("max", "contiguous"), ("oracle", "contiguous-oracle"), ("pow2", "contiguous-pow2-oracle")],
)
def test_whoever_reads_the_true_length_says_so_in_its_name(reservation: str, name: str) -> None:
    assert ContiguousPolicy(reservation=reservation).name == name
    assert ContiguousPolicy(reservation=reservation).clone().name == name
    assert ContiguousPolicy.name == "contiguous"


@pytest.mark.parametrize("reservation", ["oracle", "pow2"])
def test_an_oracle_without_the_true_length_cannot_start(reservation: str) -> None:
    with pytest.raises(InputError, match=f"reservation '{reservation}' needs the true length"):
        started(Pool.of_tokens(100), reservation=reservation)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"reservation": "min"}, "reservation must be one of max, oracle, pow2, got 'min'"),
        ({"placement": "worst-fit"}, "placement must be one of first-fit, best-fit, buddy, got 'worst-fit'"),
        ({"placement": None}, "placement must be one of first-fit, best-fit, buddy, got None"),
        ({"block_size": 0}, "block_size must be at least 1 token, got 0"),
        ({"block_size": 0.5}, "block_size must be at least 1 token, got 0.5"),
    ],
)
def test_a_parameter_out_of_range_is_refused_at_once(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ContiguousPolicy(**parameters)  # type: ignore[arg-type]


def test_a_pool_without_a_single_token_is_an_error() -> None:
    with pytest.raises(InputError, match="at least 1 token, got 0"):
        started(Pool(kv_bytes=9, token_bytes=10, max_model_len=5))
