"""Physical page groups: which are mapped into whose virtual range, and which wait to be."""

from __future__ import annotations


class PageGroups:
    """A pool of page groups, counted: a group is one page in each of a model's KV tensors.

    A range may have more groups mapped than its sequence holds, left over from whoever had it before. Those count
    as free: anybody who needs a group and finds no unmapped one gets them, from idle ranges first (the one that
    has been idle longest), then from ranges in use.
    """

    def __init__(self, total: int, keeps_mapped: bool, eager: int) -> None:
        """Start with everything unmapped; `eager` groups are mapped for a newcomer that finds no idle range."""
        self.total = total
        self.held = 0
        """Groups that sequences hold."""
        self._unmapped = total
        self._keeps_mapped = keeps_mapped
        self._eager = eager
        self._mapped: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._idle: list[int] = []

    @property
    def free(self) -> int:
        """Groups that nobody holds, mapped or not."""
        return self.total - self.held

    def held_by(self, index: int) -> int:
        """Groups that one sequence holds."""
        return self._held[index]

    def open(self, index: int, groups: int) -> int:
        """Give a sequence a range that holds so many of the free groups; return how many had to be mapped."""
        ready = self._idle.pop() if self._idle else 0
        if not ready:
            ready = min(self._eager, self._unmapped)
            self._unmapped -= ready
        self._mapped[index], self._held[index] = ready, 0
        return self._hold(index, groups)

    def extend(self, index: int, groups: int) -> int | None:
        """Let a sequence hold so many groups in all; return how many had to be mapped, None if they are not there."""
        if groups - self._held[index] > self.free:
            return None
        return self._hold(index, groups)

    def close(self, index: int) -> None:
        """Take all groups of a sequence back."""
        self.held -= self._held.pop(index)
        mapped = self._mapped.pop(index)
        if self._keeps_mapped:
            self._idle.append(mapped)
        else:
            self._unmapped += mapped

    def _hold(self, index: int, groups: int) -> int:
        groups = max(groups, self._held[index])
        self.held += groups - self._held[index]
        self._held[index] = groups
        missing = max(0, groups - self._mapped[index])
        if missing > self._unmapped:
            self._reclaim(missing - self._unmapped)
        self._unmapped -= missing
        self._mapped[index] += missing
        return missing

    def _reclaim(self, groups: int) -> None:
        """Unmap so many groups that nobody holds."""
        while groups and self._idle:
            taken = min(groups, self._idle[0])
            self._idle[0] -= taken
            if not self._idle[0]:
                del self._idle[0]
            self._unmapped += taken
            groups -= taken
        for index, mapped in self._mapped.items():
            taken = min(groups, mapped - self._held[index])
            self._mapped[index] -= max(0, taken)
            self._unmapped += max(0, taken)
            groups -= max(0, taken)
            if not groups:
                return
