"""A step while it is being scheduled."""

from __future__ import annotations

from kvsim.job import Job


class Plan:
    """A step while it is being scheduled."""

    __slots__ = ("admitted", "budget", "cap", "chunks", "preempted", "stalled")

    def __init__(self, budget: int, cap: int) -> None:
        """Start with nobody scheduled."""
        self.budget = budget
        """Tokens left for this step."""
        self.cap = cap
        """Most tokens one request may get."""
        self.chunks: dict[int, tuple[Job, int]] = {}
        """Prefills by row: who, and how many tokens."""
        self.admitted: list[tuple[int, int]] = []
        """(row, tokens that need no prefill)."""
        self.preempted: list[Job] = []
        self.stalled: list[Job] = []
        """Decoding sequences that the budget, or rule E5, passes over."""

    def stalled_rows(self) -> set[int]:
        """Return the rows that are passed over."""
        return {job.index for job in self.stalled} if self.stalled else set()
