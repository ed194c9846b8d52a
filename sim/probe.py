"""A policy under watch: every call is checked against the contract and recorded for a replay."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from kvsim.policy import Lease, Match, Policy, Pool, Span, Usage
from kvsim.rehearsal import Prompts
from kvsim.request import Sequence
from kvsim.window import first_seen


class Lengths(NamedTuple):
    """How far a sequence is when a policy may look at it."""

    row: int
    tokens: int
    computed: int
    chunk: int


class Call(NamedTuple):
    """One call of a policy, with all that its answer may depend on."""

    method: str
    row: int
    """`sequence.index`; −1 for none."""
    argument: int
    """The tokens asked for, or 1 for a finished release and 0 for a preemption."""
    answer: object
    lengths: tuple[Lengths, ...] = ()
    """Of the sequence, and of all that run where `usage` looks at them."""
    was_refused: bool = False
    """Whether the answer was None and the policy must be as if it had not been asked."""


class Probe:
    """Hand an engine's calls to a policy and fail on the first answer that breaks the contract."""

    def __init__(self, policy: Policy, pool: Pool, prompts: Prompts) -> None:
        """Call nothing yet."""
        self.policy = policy
        self.step = 0
        self.started = False
        self.calls: list[Call] = []
        self.running: dict[int, Sequence] = {}
        self._prompts = prompts
        self._admitted: list[int] = []
        self._until: dict[int, int] = {}
        self._seen: dict[int, tuple[int, int]] = {}
        self._refused = -1
        self._pool = pool

    def start(self) -> None:
        """Reset the policy; InputError says that it cannot work in this pool."""
        self.policy.reset(self._pool)
        self.started = True
        self._check_size(self._pool)

    def fail(self, rule: str) -> NoReturn:
        """Say which rule broke, of which policy, when."""
        raise AssertionError(f"{self.policy!r}, step {self.step}: {rule}")

    def check(self, holds: bool, rule: str) -> None:
        """Fail unless the rule holds."""
        if not holds:
            self.fail(rule)

    def admit(self, sequence: Sequence, budget: int) -> int | None:
        """Look up and try to admit; return the tokens scheduled, with `computed` set to the hit."""
        match = self._lookup(sequence)
        asked = min(sequence.tokens - match.tokens, budget)
        before = self.policy.usage(None)
        lease = self.policy.admit(sequence, match, asked)
        refused = self._check_lease("admit", lease, match.tokens + asked, before)
        answer = (match.tokens, match.restored, None if lease is None else lease.until)
        self._record("admit", sequence, budget, answer, refused)
        if lease is None:
            self._refused = sequence.index
            return None
        if self.policy.refusal_holds and self._refused == sequence.index:
            self.fail(
                f"refusal_holds is True, but {sequence} was refused and then admitted after decodes only"
            )
        self._refused = -1
        self._check_reach(sequence, lease)
        self._until[sequence.index] = lease.until
        self.running[sequence.index] = sequence
        self._admitted.append(sequence.index)
        sequence.computed = match.tokens
        return asked

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """Make room for the first `tokens` tokens, asking only when the lease is over."""
        if tokens - sequence.computed > 1 or sequence.computed < sequence.prompt_tokens:
            self._refused = -1
        if tokens <= self._until[sequence.index]:
            return True
        before = self.policy.usage(None)
        lease = self.policy.grow(sequence, tokens)
        refused = self._check_lease("grow", lease, tokens, before)
        self._record("grow", sequence, tokens, None if lease is None else lease.until, refused)
        if lease is None:
            return False
        until = self._until[sequence.index]
        self.check(lease.until >= until, f"grow shortened the lease of {sequence}: {until} to {lease.until}")
        self._check_reach(sequence, lease)
        self._until[sequence.index] = lease.until
        return True

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Give everything back; a preempted sequence has nothing computed afterwards."""
        before = self.policy.usage(None)
        sequence.lost = 0 if finished else sequence.computed
        self.policy.release(sequence, finished)
        self._record("release", sequence, int(finished), None)
        after = self.policy.usage(None)
        self.check(after.held <= before.held, f"release raised held from {before.held} to {after.held}")
        del self.running[sequence.index], self._until[sequence.index]
        self._refused = -1
        if not finished:
            sequence.computed = 0

    def transfers(self) -> None:
        """Ask for the step's seconds of copying, which the policy must then forget."""
        for name, call in (
            ("transfers", self.policy.transfers),
            ("transfers_beside", self.policy.transfers_beside),
        ):
            seconds = call()
            self.calls.append(Call(name, -1, 0, seconds))
            self.check(0 <= seconds < float("inf"), f"{name}() must be seconds ≥ 0, got {seconds!r}")
            again = call()
            self.check(again == 0, f"{name}() must be forgotten once returned, got {again!r} the second time")

    def usage(self, waiting: Sequence | None) -> Usage:
        """Count, and check the sums."""
        usage = self.policy.usage(waiting)
        blocks = self.policy.blocks_in_use
        self._record("usage", waiting, 0, (*usage, blocks))
        for field, value in zip((*Usage._fields, "blocks_in_use"), (*usage, blocks), strict=True):
            self.check(type(value) is int and value >= 0, f"{field} must be a plain int ≥ 0, got {value!r}")
        total = usage.held + usage.reusable + usage.external
        self.check(
            total <= self.policy.capacity,
            f"held + reusable + external = {total} slots of a capacity of {self.policy.capacity}: {usage}",
        )
        self.check(self.policy.usage(waiting) == usage, "usage() asked twice gave two answers")
        self._check_live(usage)
        if not self.policy.reads_lengths:
            self._check_stale(waiting, usage)
        return usage

    def _lookup(self, sequence: Sequence) -> Match:
        before = self.policy.usage(None)
        match = self.policy.lookup(sequence)
        self.check(isinstance(match, Match), f"lookup must return a Match, got {match!r}")
        self.check(self.policy.usage(None) == before, "lookup must change nothing, but usage() did")
        self.check(
            0 <= match.restored <= match.tokens < sequence.tokens,
            f"a match must be 0 ≤ restored ≤ tokens < {sequence.tokens}, one is left to compute: {match!r}",
        )
        known = self._prompts.known(sequence, self._admitted)
        self.check(
            match.tokens <= known, f"{sequence} hit {match.tokens} tokens; only {known} were ever computed"
        )
        return match

    def _check_lease(self, method: str, lease: Lease | None, asked: int, before: Usage) -> bool:
        """Return whether it was a refusal, and one that can neither have moved a window on nor forked a beam."""
        if lease is not None:
            self.check(isinstance(lease, Lease), f"{method} must return a Lease or None, got {lease!r}")
            until = lease.until
            self.check(type(until) is int, f"Lease.until must be a plain int, got {until!r}")
            self.check(
                until >= asked, f"{method} was asked for {asked} tokens and gave a lease until {until}"
            )
            return False
        after = self.policy.usage(None)
        forks = self._pool.beam is not None
        slid = method == "grow" and (forks or any(span.window is not None for span in self.policy.spans))
        gave_back = after.held <= before.held and (forks or after.shared <= before.shared)
        self.check(
            after == before or (slid and gave_back and after.reusable >= before.reusable),
            f"{method} answered None, which must take nothing, but usage went from {before} to {after}",
        )
        return not slid

    def _check_reach(self, sequence: Sequence, lease: Lease) -> None:
        final = self._prompts.final(sequence)
        reach = self.policy.reach(sequence, lease, final)
        most = self.policy.slots_per_token * final * self._pool.width
        self.check(
            0 <= reach <= most, f"reach must be 0 … {most} slots for a final length of {final}, got {reach}"
        )

    def _check_live(self, usage: Usage) -> None:
        live = sum(
            self._width(sequence)
            * span.weight
            * (sequence.computed - first_seen(sequence.computed, span.window))
            for sequence in self.running.values()
            for span in self.policy.spans
        )
        self.check(
            live <= usage.held + usage.shared,
            f"{live} slots are live, more than held + shared: a slot was given twice, or lost: {usage}",
        )
        if not ((self._prompts.are_shared or self._pool.width > 1) and self.running):
            self.check(usage.shared == 0, f"no content is shared, but shared = {usage.shared}")

    def _width(self, sequence: Sequence) -> int:
        return self._pool.width if sequence.computed >= sequence.prompt_tokens else 1

    def _check_stale(self, waiting: Sequence | None, usage: Usage) -> None:
        true = {index: (sequence.tokens, sequence.computed) for index, sequence in self.running.items()}
        for index, sequence in self.running.items():
            sequence.tokens, sequence.computed = self._seen[index]
        stale = self.policy.usage(waiting)
        for index, sequence in self.running.items():
            sequence.tokens, sequence.computed = true[index]
        self.check(
            stale == usage, "reads_lengths is False, but usage() depends on sequence.computed or tokens"
        )

    def _check_size(self, pool: Pool) -> None:
        capacity = self.policy.capacity
        self.check(type(capacity) is int and capacity > 0, f"capacity must be an int > 0, got {capacity!r}")
        for field in ("spans", "attention"):
            spans = getattr(self.policy, field, None)
            self.check(
                isinstance(spans, tuple)
                and bool(spans)
                and all(isinstance(s, Span) and s.weight > 0 for s in spans),
                f"{field} must be a tuple of Span with weights > 0, set by reset; got {spans!r}",
            )
        tokens = pool.kv_bytes // pool.token_bytes
        self.check(
            pool.num_gpu_blocks_override is not None or capacity <= tokens * self.policy.slots_per_token,
            f"capacity is {capacity} slots, but the pool is {tokens} tokens of {self.policy.slots_per_token}",
        )
        self.check(self.policy.usage(None).held == 0, "held must be 0 after reset")

    def _record(
        self, method: str, sequence: Sequence | None, argument: int, answer: object, was_refused: bool = False
    ) -> None:
        row = -1 if sequence is None else sequence.index
        looked_at = [] if sequence is None else [sequence]
        if method == "usage":
            looked_at += self.running.values() if self.policy.reads_lengths else ()
        else:
            self._seen |= {of.index: (of.tokens, of.computed) for of in looked_at}
        lengths = tuple(Lengths(of.index, of.tokens, of.computed, of.chunk) for of in looked_at)
        self.calls.append(Call(method, row, argument, answer, lengths, was_refused))


def _live_tokens(sequence: Sequence, span: Span) -> int:
    """Count the computed tokens that the queries of the last chunk or the next token see."""
    if span.window is None:
        return sequence.computed
    return min(sequence.computed, span.window - 1 + sequence.chunk)
