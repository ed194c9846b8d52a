"""The straight lines that price steps in which everybody decodes, remembered by how many do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvsim.cost import Line

if TYPE_CHECKING:
    from kvsim.replica import Replica


class DecodeLines:
    """What a cost model answers to `decode_line`, asked again only where the last answer no longer holds."""

    def __init__(self, replica: Replica) -> None:
        """Ask the replica's cost model, if it has lines."""
        self._batch = replica.batch
        self._line_of: Callable[..., Line | None] | None = getattr(replica.cost, "decode_line", None)
        self._lines: dict[int, tuple[int, Line]] = {}
        """By number of decodes: what the others lack to be as long as the longest, if that is kept, and the line."""
        self.are_there = self._line_of is not None
        """Whether the cost model has any."""

    def find(self, decodes: int, context: int) -> Line | None:
        """Return the line for steps of so many decodes from this Σ context on, the next step's; None without one."""
        known = self._lines.get(decodes)
        longest, lack = self._batch.longest, 0
        length = 0 if longest is None else longest.at(self._batch.step + 1)
        if longest is not None:
            # That stays as it is while everybody decodes.
            lack = decodes * length - context
        if known is not None and known[0] == lack and known[1].since <= context <= known[1].until:
            return known[1]
        if self._line_of is None:
            return None
        line = self._line_of(decodes, context) if longest is None else self._line_of(decodes, context, length)
        if line is not None:
            self._lines[decodes] = lack, line
        return line
