"""Where a trace's rows were read, in the words of the file, so that errors can point there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum


class Coverage(Enum):
    """How many content ids a prompt of n tokens must have, with blocks of b tokens."""

    AT_MOST = "at most ceil(prompt / block)"
    CEIL = "ceil(prompt / block)"
    FLOOR = "floor(prompt / block)"


@dataclass(frozen=True, slots=True)
class Origin:
    """The file, its names for our columns, and what its format promises about ids."""

    file: str
    """Name of the file or folder."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Our column name → the file's, for messages; ours where absent."""
    place: Callable[[int], str] | None = None
    """Says where row i (from 0) was read; without it, `file row i + 1`."""
    coverage: Coverage = Coverage.AT_MOST
    """The number of ids a row must have."""
    chained: bool = False
    """Whether an id always has the same predecessor, as hashes of whole prefixes do."""

    def at(self, row: int) -> str:
        """Say where row `row` was read; rows are counted from 1, a CSV's header not counted."""
        return self.place(row) if self.place else f"{self.file} row {row + 1}"

    def named(self, column: str) -> str:
        """Return the file's own name for a column."""
        return self.fields.get(column, column)
