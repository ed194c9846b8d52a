"""The conformance suite for a KV-cache allocation policy, yours or ours."""

from __future__ import annotations

import inspect
import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from kvsim.errors import InputError
from kvsim.policy import Policy, Pool, parameter_defaults
from kvsim.probe import Call, Probe
from kvsim.rehearsal import Prompts, Rehearsal, sample_pools, tight_pools
from kvsim.request import Sequence

_ROWS = 40
_LENGTHS = 512


def check_policy(
    policy: Policy | type[Policy], *, seed: int = 0, rounds: int = 8, pool: Pool | None = None
) -> None:
    """Raise AssertionError, naming the rule and the step, where a policy breaks the contract.

    Give it a class, to be made with its defaults, or an instance, which is cloned and left alone:

        from kvsim.testing import check_policy
        check_policy(MyPolicy)
        check_policy(MyPolicy(block_size=4), seed=1)

    Each round serves a random workload, partly with shared prompts, from a small pool as an engine would:
    admission, chunked prefill, decoding, preemption, release. The pools differ in size, attention spans
    and how they are given; those that the policy's `reset` turns down with InputError are passed over,
    but one has to be accepted. With `pool` every round uses that one. A policy that `holds_samples` is served requests
    of several samples and beams, too.
    """
    example = _check_parameters(policy)
    _check_class(example)
    rng = np.random.default_rng(seed)
    pools = _pools(example, rng, rounds) if pool is None else (pool for _ in range(rounds))
    admissions = 0
    declined: InputError | None = None
    for number, given in enumerate(pools):
        try:
            admissions += _check_round(example, given, rng, shared=number % 2 == 1)
        except InputError as error:
            if pool is not None:
                raise
            declined = error
    if not admissions:
        raise AssertionError(f"{example!r} admitted nothing in any pool; last turned down with: {declined}")


def _pools(policy: Policy, rng: np.random.Generator, rounds: int) -> Iterator[Pool]:
    yield from tight_pools(rng, rounds)
    if policy.holds_samples:
        yield from sample_pools(rng, rounds)


def _check_round(policy: Policy, pool: Pool, rng: np.random.Generator, *, shared: bool) -> int:
    """Return how many admissions there were; InputError only when `reset` turned the pool down."""
    prompts = Prompts.random(rng, _ROWS, pool.max_model_len, shared=shared)
    pool = _with_prompts(pool, prompts, policy)
    probe = Probe(policy.clone(), pool, prompts)
    with _named(probe):
        probe.start()
        rehearsal = Rehearsal(probe, pool, prompts, rng)
        rehearsal.serve()
        _check_replays(probe.policy, pool, probe.calls)
        _check_whole(probe.policy, pool, prompts)
        _check_refusals(probe.policy, pool)
    return rehearsal.admissions


@contextmanager
def _named(probe: Probe) -> Iterator[None]:
    """Put the policy and the step into whatever is raised."""
    try:
        yield
    except InputError as error:
        if not probe.started:
            raise
        raise AssertionError(
            f"{probe.policy!r}, step {probe.step}: InputError outside reset: {error}"
        ) from error
    except AssertionError as error:
        if repr(probe.policy) in str(error):
            raise
        raise AssertionError(f"{probe.policy!r}, step {probe.step}: {error}") from error
    except Exception as error:
        error.add_note(f"raised while checking {probe.policy!r}, step {probe.step}")
        raise


def _check_parameters(policy: Policy | type[Policy]) -> Policy:
    """Return an unused instance, after checking that it can be cloned and swept."""
    cls = policy if isinstance(policy, type) else type(policy)
    for parameter in inspect.signature(cls).parameters.values():
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if not named or parameter.default is parameter.empty:
            bare = parameter.replace(annotation=parameter.empty)
            raise AssertionError(
                f"{cls.__name__}: constructor parameters must be keywords with defaults, not `{bare}`"
            )
    defaults = parameter_defaults(cls)
    given = defaults
    if isinstance(policy, Policy):
        given = {name: getattr(policy, name, default) for name, default in defaults.items()}
    example = cls(**given)
    _check_stored(example, given)
    twin = example.clone()
    if twin is example or type(twin) is not cls:
        raise AssertionError(f"{cls.__name__}: clone() must return a new {cls.__name__}, got {twin!r}")
    _check_stored(twin, given)
    return example


def _check_stored(policy: Policy, given: dict[str, object]) -> None:
    for name, value in given.items():
        stored = getattr(policy, name, "nothing")
        if type(stored) is not type(value) or stored != value:
            raise AssertionError(
                f"{type(policy).__name__}: {name}={value!r} must be stored unchanged as .{name}, "
                f"found {stored!r}"
            )


def _check_class(policy: Policy) -> None:
    name = getattr(policy, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[^\s:=,]+", name):
        raise AssertionError(f"{policy!r}: name must be a word without `:`, `=` and `,`, got {name!r}")
    for flag in ("refusal_holds", "reads_lengths", "holds_samples"):
        if not isinstance(getattr(policy, flag), bool):
            raise AssertionError(f"{policy!r}: {flag} must be a bool, got {getattr(policy, flag)!r}")


def _with_prompts(pool: Pool, prompts: Prompts, policy: Policy) -> Pool:
    prompts.hides_outputs = "oracle" not in policy.name
    workload = prompts if prompts.are_shared else None
    return replace(pool, workload=workload, true_tokens=prompts.true_tokens)


def _check_whole(policy: Policy, pool: Pool, prompts: Prompts) -> None:
    """Check that a pool that gave everything back takes as many sequences as a new one."""
    new = policy.clone()
    new.reset(pool)
    was_left, is_new = _fill(policy, prompts), _fill(new, prompts)
    if was_left != is_new:
        raise AssertionError(
            f"everything was released, but the pool now takes {len(was_left)} sequences of one token with "
            f"leases of {sum(was_left)} tokens, a new one {len(is_new)} of {sum(is_new)}: memory was lost or "
            "freed twice"
        )


def _fill(policy: Policy, prompts: Prompts) -> list[int]:
    """Admit sequences of one token until one is refused; return the leases, all given back."""
    admitted: list[Sequence] = []
    leases: list[int] = []
    for row in range(prompts.served, len(prompts)):
        sequence = Sequence(row, 0.0, 1)
        lease = None if policy.refuses(1) else policy.admit(sequence, policy.lookup(sequence), 1)
        if lease is None:
            break
        sequence.computed = 1
        admitted.append(sequence)
        leases.append(lease.until)
    for sequence in admitted:
        policy.release(sequence, finished=True)
    return leases


def _check_replays(policy: Policy, pool: Pool, calls: list[Call]) -> None:
    """Make the same calls again: after a reset, on a clone, and without those that were refused."""
    accepted = [call for call in calls if not call.was_refused]
    for who, again, made in (
        ("after a second reset", policy, calls),
        ("on a clone", policy.clone(), calls),
        ("where the calls it had refused were not made", policy.clone(), accepted),
    ):
        different = _replay(again, pool, made)
        if different is not None:
            call, answer = different
            raise AssertionError(
                f"the same calls must get the same answers {who}: {call.method} of sequence {call.row} "
                f"gave {call.answer}, then {answer}"
            )


def _replay(policy: Policy, pool: Pool, calls: list[Call]) -> tuple[Call, object] | None:
    """Return the first call that is answered differently, and that answer."""
    policy.reset(pool)
    sequences: dict[int, Sequence] = {}
    for call in calls:
        for row, tokens, computed, chunk in call.lengths:
            sequence = sequences.setdefault(row, Sequence(row, 0.0, tokens))
            sequence.tokens, sequence.computed, sequence.chunk = tokens, computed, chunk
        answer = _repeat(policy, sequences.get(call.row), call)
        if answer != call.answer:
            return call, answer
    return None


def _repeat(policy: Policy, sequence: Sequence | None, call: Call) -> object:
    if call.method == "usage":
        return (*policy.usage(sequence), policy.blocks_in_use)
    if sequence is None:
        return policy.transfers() if call.method == "transfers" else policy.transfers_beside()
    if call.method == "admit":
        match = policy.lookup(sequence)
        lease = policy.admit(sequence, match, min(sequence.tokens - match.tokens, call.argument))
        return (match.tokens, match.restored, None if lease is None else lease.until)
    if call.method == "grow":
        lease = policy.grow(sequence, call.argument)
        return None if lease is None else lease.until
    sequence.lost = 0 if call.argument else sequence.computed
    return policy.release(sequence, finished=bool(call.argument))


def _check_refusals(policy: Policy, pool: Pool) -> None:
    """Check that what is refused for good grows with length, and that anything else fits alone."""
    longest = pool.max_model_len
    lengths = sorted({*range(1, longest + 1, max(1, longest // _LENGTHS)), longest})
    reasons = [policy.refuses(tokens) for tokens in lengths]
    for tokens, reason in zip(lengths, reasons, strict=True):
        if reason is not None and not (isinstance(reason, str) and reason):
            raise AssertionError(f"refuses({tokens}) must be None or a reason, got {reason!r}")
    refused = [reason is not None for reason in reasons]
    if refused != sorted(refused):
        raise AssertionError("refuses() must refuse everything longer than what it refuses")
    fitting = lengths[: bisect_left(refused, True)]
    for tokens in fitting[len(fitting) // 2 :][:1] + fitting[-1:]:
        for outputs in (1, min(64, tokens)):
            _check_alone(policy, pool, tokens, outputs)


def _check_alone(policy: Policy, pool: Pool, tokens: int, outputs: int) -> None:
    if policy.refuses_request(tokens - outputs + 1, tokens) is not None:
        return
    prompts = Prompts([tokens - outputs + 1], [outputs])
    alone = _with_prompts(pool, prompts, policy)
    probe = Probe(policy, alone, prompts)
    probe.start()
    Rehearsal(probe, alone, prompts, np.random.default_rng(0)).serve()
