"""One piece of memory a request, at a real address, for as long as it runs.

Nobody grows and nobody is preempted: the piece is as long as the reservation says. There are no windows and
no prefix caching; a slot holds one token in all layers.
"""

from __future__ import annotations

from typing import Any

from reference.groups import Hit
from reference.request import Request

Piece = tuple[int, int]
"""Address, size."""


def power_of_two_from(tokens: int) -> int:
    """Return the least power of two that is not less than `tokens`."""
    power = 1
    while power < tokens:
        power *= 2
    return power


def whole_chunks(capacity: int) -> list[Piece]:
    """Cut a capacity into powers of two, the largest first, from address 0."""
    chunks: list[Piece] = []
    address = 0
    while address < capacity:
        size = 1
        while address + 2 * size <= capacity:
            size *= 2
        chunks.append((address, size))
        address += size
    return chunks


class ContiguousMemory:
    """Holes and pieces of `capacity` slots, under the reservation and placement the configuration names."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Start empty: one hole, or a buddy allocator's chunks."""
        memory = config["memory"]
        assert memory["type"] == "contiguous"
        self.max_model_len: int = config["max_model_len"]
        self.capacity: int = memory["capacity"]
        self.reservation: str = memory["reservation"]
        self.placement: str = memory["placement"]
        self.holes = whole_chunks(self.capacity) if self.placement == "buddy" else [(0, self.capacity)]
        self.pieces: dict[int, Piece] = {}
        self.largest = whole_chunks(self.capacity)[0][1] if self.placement == "buddy" else self.capacity

    @property
    def in_use(self) -> int:
        """There are no blocks."""
        return 0

    def reserved_size(self, request: Request) -> int:
        """Return the slots to reserve: max_model_len, the final length, or twice the outputs at most."""
        if self.reservation == "max":
            return self.max_model_len
        if self.reservation == "oracle":
            return request.final_length
        assert self.reservation == "pow2"
        outputs = request.final_length - request.prompt + 1
        doubled = request.prompt + power_of_two_from(outputs)
        return max(request.final_length, min(doubled, self.max_model_len, self.largest))

    def size(self, request: Request) -> int:
        """Return the slots to take: those reserved, with buddy rounded up to a power of two."""
        size = self.reserved_size(request)
        return power_of_two_from(size) if self.placement == "buddy" else size

    def never_fits(self, request: Request) -> bool:
        """Say whether no hole of the empty memory is large enough."""
        return self.size(request) > self.largest

    def lookup(self, request: Request) -> Hit:
        """Find nothing: content is not looked at."""
        del request
        return Hit()

    def admit(self, request: Request, hit: Hit, tokens: int, others_run: bool) -> bool:
        """Take a hole that is large enough, or take nothing and say no."""
        del hit, tokens, others_run
        size = self.size(request)
        hole = self.choose(size)
        if hole is None:
            return False
        self.holes.remove(hole)
        self.holes += self.halves(hole, size) if self.placement == "buddy" else self.rest(hole, size)
        self.holes.sort()
        self.pieces[request.index] = (hole[0], size)
        return True

    def choose(self, size: int) -> Piece | None:
        """Pick the lowest hole that is large enough; unless first-fit, the lowest of the smallest such."""
        fitting = [hole for hole in sorted(self.holes) if hole[1] >= size]
        if not fitting:
            return None
        if self.placement == "first-fit":
            return fitting[0]
        return min(fitting, key=lambda hole: hole[1])

    def rest(self, hole: Piece, size: int) -> list[Piece]:
        """Return what is left of a hole whose front is taken."""
        address, length = hole
        return [(address + size, length - size)] if length > size else []

    def halves(self, hole: Piece, size: int) -> list[Piece]:
        """Halve a chunk until it has the size, going on with the lower half; return the upper halves."""
        address, length = hole
        left = []
        while length > size:
            length //= 2
            left.append((address + length, length))
        return left

    def grow(self, request: Request, tokens: int) -> bool:
        """Say yes: all it will ever need is there."""
        assert request.computed + tokens <= self.pieces[request.index][1]
        return True

    def give_hashes(self, request: Request, upto: int) -> None:
        """Do nothing: content is not looked at."""
        del request, upto

    def release(self, request: Request) -> None:
        """Make the piece a hole again and join it with its neighbours, or with its buddies."""
        piece = self.pieces.pop(request.index)
        self.holes = self.with_buddies(piece) if self.placement == "buddy" else self.with_neighbours(piece)

    def with_neighbours(self, piece: Piece) -> list[Piece]:
        """Return the holes with this one, those that touch made one."""
        joined: list[Piece] = []
        for address, size in sorted([*self.holes, piece]):
            if joined and sum(joined[-1]) == address:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((address, size))
        return joined

    def with_buddies(self, piece: Piece) -> list[Piece]:
        """Return the holes with this one, joined with its buddy as long as that is a hole too."""
        holes = list(self.holes)
        address, size = piece
        while (address ^ size, size) in holes:
            holes.remove((address ^ size, size))
            address, size = min(address, address ^ size), 2 * size
        return sorted([*holes, (address, size)])

    def detail(self, requests: list[Request]) -> dict[str, Any]:
        """Return the pieces of these requests."""
        return {str(request.index): list(self.pieces[request.index]) for request in requests}

    def queue_detail(self) -> dict[str, Any]:
        """Return the holes, by address."""
        return {"free": [list(hole) for hole in self.holes], "hashed": []}
