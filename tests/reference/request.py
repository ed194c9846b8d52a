"""A request on its way through the loop, and the row the log has of it at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reference.contents import Row, prompt_length


@dataclass(eq=False)
class Request:
    """What the loop knows of one row. Its tokens are its prompt and the outputs it has so far."""

    index: int
    row: Row
    prompt: int
    max_tokens: int
    priority: int
    max_model_len: int
    arrival: float | None
    """Seconds; None until a row that waits for its parent is sent."""

    status: str = "unsent"
    """unsent, waiting, running, finished, rejected; stuck at the end if neither of the last two."""
    outputs: int = 0
    on_the_way: int = 0
    """Y1: outputs of steps that have not ended."""
    computed: int = 0
    """Tokens with KV, those of steps under way included."""
    ended: int = 0
    """Y3: tokens whose step has ended; the same as `computed` when a synchronous step starts."""

    first_sched: float | None = None
    output_times: list[float] = field(default_factory=list)
    finish: float | None = None
    preemptions: int = 0
    admissions: list[int] = field(default_factory=list)
    """The hit, in tokens, of each admission."""
    restored: int = 0
    """Tokens that came back from where a preemption put them, and are no hits."""
    thrown_away: list[int] = field(default_factory=list)
    """`computed` at each preemption."""
    sched_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and outputs that are known."""
        return self.prompt + self.outputs

    @property
    def expected_tokens(self) -> int:
        """Y1: with the outputs that are on the way."""
        return self.tokens + self.on_the_way

    @property
    def last_tokens(self) -> int:
        """L2: the number of tokens at which it finishes."""
        return min(self.prompt + self.max_tokens, self.max_model_len)

    @property
    def final_length(self) -> int:
        """A1: tokens that will ever have KV: all but the last output."""
        return self.last_tokens - 1

    @property
    def recomputed(self) -> int:
        """Tokens computed again because a preemption threw them away.

        Σ over re-admissions of max(0, computed before the preemption − hit now). What was scheduled and
        taken back in the same step (E4) was never computed. Under async scheduling, tokens of a step
        still under way count as computed.
        """
        return sum(
            max(0, lost - hit) for lost, hit in zip(self.thrown_away, self.admissions[1:], strict=False)
        )

    def log_row(self) -> dict[str, Any]:
        """Return the row as the log has it."""
        return {
            "req": self.index,
            "status": self.status,
            "arrival": self.arrival,
            "first_sched": self.first_sched,
            "first_token": self.output_times[0] if self.output_times else None,
            "finish": self.finish,
            "preemptions": self.preemptions,
            "cached_first": self.admissions[0] if self.admissions else None,
            "cached_total": sum(self.admissions) - self.restored,
            "sched_tokens": self.sched_tokens,
            "outputs": self.outputs,
        }


def make_requests(rows: list[Row], max_model_len: int) -> list[Request]:
    """Number the rows and read them; a row with a parent has no arrival yet."""
    return [
        Request(
            index=index,
            row=row,
            prompt=prompt_length(row),
            max_tokens=int(row["output_len"]),
            priority=int(row.get("priority") or 0),
            max_model_len=max_model_len,
            arrival=None if row.get("parent", -1) >= 0 else float(row["arrival_s"]),
        )
        for index, row in enumerate(rows)
    ]
