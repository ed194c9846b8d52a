"""One piece of memory a request, at a real address, for as long as it runs.

Nobody grows and nobody is preempted: the piece is as long as the reservation says. There are no windows and
no prefix caching; a slot holds one token in all layers.
"""

from __future__ import annotations

from typing import Any

from reference.groups import Hit
from reference.request import Request

COPY_SPEED = 2.0**10
"""Bytes a second within the memory, where a token has one byte."""

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
        self.samples: int = config.get("samples", 1)
        self.parents = config.get("parents")
        self.token_copies = self.copies = 0
        self.pieces: dict[int, list[Piece]] = {}
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
        return max(request.final_length, min(doubled, self.max_model_len, self.largest_of_all()))

    def largest_of_all(self) -> int:
        """Return the size of the largest pieces of which the empty memory gives one to each sequence."""
        sizes = range(self.capacity, 0, -1)
        if self.placement == "buddy":
            sizes = [size for size in sizes if power_of_two_from(size) == size]
        fitting = (s for s in sizes if sum(chunk // s for _, chunk in self.whole()) >= self.samples)
        return next(fitting, 0)

    def whole(self) -> list[Piece]:
        """Return the holes of the empty memory."""
        return whole_chunks(self.capacity) if self.placement == "buddy" else [(0, self.capacity)]

    def size(self, request: Request) -> int:
        """Return the slots to take: those reserved, with buddy rounded up to a power of two."""
        size = self.reserved_size(request)
        return power_of_two_from(size) if self.placement == "buddy" else size

    def never_fits(self, request: Request) -> bool:
        """Say whether no hole of the empty memory is large enough."""
        size = self.size(request)
        return sum(chunk // size for _, chunk in self.whole()) < self.samples

    def lookup(self, request: Request) -> Hit:
        """Find nothing: content is not looked at."""
        del request
        return Hit()

    def admit(self, request: Request, hit: Hit, tokens: int, others_run: bool) -> bool:
        """Take a hole that is large enough for each sequence, or take nothing and say no."""
        del hit, tokens, others_run
        size, before = self.size(request), list(self.holes)
        pieces = []
        for _ in range(self.samples):
            hole = self.choose(size)
            if hole is None:
                self.holes = before
                return False
            self.holes.remove(hole)
            self.holes += self.halves(hole, size) if self.placement == "buddy" else self.rest(hole, size)
            self.holes.sort()
            pieces.append((hole[0], size))
        self.pieces[request.index] = pieces
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
        """Say yes: all it will ever need is there. N5: who parts, or is forked, is copied first."""
        assert request.computed + tokens <= self.pieces[request.index][0][1]
        output = request.computed + tokens - request.prompt
        if self.samples > 1 and output == 1:
            self.copies += self.samples - 1
            self.token_copies += (self.samples - 1) * request.prompt
        if self.parents is not None and output > 1:
            parents = self.parents(request.index, output)
            dead = sum(place != parent for place, parent in enumerate(parents))
            self.copies += dead
            self.token_copies += dead * request.computed
        return True

    def seconds(self) -> float:
        """Return what the step waits for: copies of one byte a token."""
        tokens, self.token_copies = self.token_copies, 0
        return tokens / COPY_SPEED

    def give_hashes(self, request: Request, upto: int) -> None:
        """Do nothing: content is not looked at."""
        del request, upto

    def release(self, request: Request) -> None:
        """Make the pieces holes again and join them with their neighbours, or with their buddies."""
        for piece in self.pieces.pop(request.index):
            buddy = self.placement == "buddy"
            self.holes = self.with_buddies(piece) if buddy else self.with_neighbours(piece)

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
        return {str(r.index): [list(piece) for piece in self.pieces[r.index]] for r in requests}

    def queue_detail(self) -> dict[str, Any]:
        """Return the holes, by address."""
        return {"free": [list(hole) for hole in self.holes], "hashed": []}
