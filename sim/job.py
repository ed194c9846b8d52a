"""A request inside the engine, with what only the engine may know and remember of it."""

from __future__ import annotations

from operator import attrgetter

from kvsim.policy import Lease
from kvsim.request import Sequence

NEVER = float("nan")


class Job(Sequence):
    """A sequence with what only the engine may know and remember of it.

    While it decodes its length is `base + Batch.step`, so that a step need not touch it.
    """

    # Most jobs never change most of these, so the class holds what they start as.
    base = 0
    """Length less `Batch.step`, while it decodes."""
    decoding = False
    due = -1
    """Decode step at which it will have outgrown its lease, as far as is known."""
    stamp = -1
    """Order of admission, new at every one; −1 while it does not run."""
    passed = 0
    """How many of the batch's windows it has outgrown."""
    edges = 0
    """Where blocks are counted: how many of the windows that give blocks back it has outgrown."""
    lease = Lease(0)
    reach = 0
    """Slots it has and will have filled, of what it holds (`Policy.reach`); not kept where blocks are counted."""
    pad = 0
    """Where blocks are counted: tokens of its last block that it will never fill; known once it is computed so far."""
    found = 0
    """Tokens found at the last admission."""
    cached = 0
    """Tokens found at first admission."""
    readmission_hits = 0
    """Tokens found again after preemptions."""
    recomputed = 0
    preemptions = 0
    first_scheduled = NEVER
    first_token = NEVER
    last_token = NEVER
    """When its last token came out; kept only while it is preempted or passed over."""

    def __init__(self, index: int, arrival: float, prompt_tokens: int, priority: int, final: int) -> None:
        """`final` is the number of tokens that will have KV when it finishes."""
        self.index = index
        self.arrival = arrival
        self.prompt_tokens = self.tokens = prompt_tokens
        self.priority = priority
        self.final = final


by_stamp = attrgetter("stamp")
"""Sorts jobs by when they were admitted."""
