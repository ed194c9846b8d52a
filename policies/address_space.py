"""An address space of token slots: where pieces lie, and what the holes between them can still take."""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import neg
from typing import NamedTuple, Protocol


class Piece(NamedTuple):
    """A run of slots."""

    address: int
    """First slot."""
    size: int
    """Slots."""


class AddressSpace(Protocol):
    """Slots 0 … capacity − 1, handed out in contiguous pieces."""

    free: int
    """Slots in no piece."""

    @property
    def largest(self) -> int:
        """Slots of the largest piece that the empty space can give."""

    def largest_of(self, count: int) -> int:
        """Return the slots of the largest piece of which the empty space can give so many."""

    def rounded(self, size: int) -> int:
        """Count the slots that a piece asked for with `size` takes."""

    def take(self, size: int) -> Piece | None:
        """Place a piece of at least `size` slots; None, and nothing changed, when no hole takes it."""

    def give(self, piece: Piece) -> None:
        """Take a piece back, whole as it was placed, and merge it with the holes it touches."""

    def too_small(self, size: int) -> int:
        """Count the free slots in holes that cannot take a piece of `size` slots."""

    def holes(self) -> list[Piece]:
        """Return the holes by address; the sum of their sizes is `free`."""


class HoleSpace:
    """Pieces of exactly the size asked for, at the low end of a hole.

    First-fit takes the lowest hole that is large enough; best-fit the smallest such hole, and of equals
    the lowest. Neighbouring holes are always merged.
    """

    def __init__(self, capacity: int, *, best_fit: bool = False) -> None:
        """Start as one hole."""
        self.free = capacity
        self._capacity = capacity
        self._best_fit = best_fit
        self._addresses: list[int] = []
        self._sizes: dict[int, int] = {}
        self._by_size: list[tuple[int, int]] = []
        if capacity:
            self._add(0, capacity)

    @property
    def largest(self) -> int:
        """Slots of the largest piece that the empty space can give: all of them."""
        return self._capacity

    def largest_of(self, count: int) -> int:
        """Return the slots of the largest piece of which the empty space can give so many."""
        return self._capacity // count

    def rounded(self, size: int) -> int:
        """Count the slots that a piece of `size` takes: no more than that."""
        return size

    def take(self, size: int) -> Piece | None:
        """Place a piece at the low end of the hole that the fit chooses."""
        if not self._by_size or self._by_size[-1][0] < size:
            return None
        if self._best_fit:
            address = self._by_size[bisect_left(self._by_size, (size, 0))][1]
        else:
            address = next(address for address in self._addresses if self._sizes[address] >= size)
        left = self._remove(address) - size
        if left:
            self._add(address + size, left)
        self.free -= size
        return Piece(address, size)

    def give(self, piece: Piece) -> None:
        """Take a piece back and merge it with the hole on either side."""
        address, size = piece
        self.free += size
        if address + size in self._sizes:
            size += self._remove(address + size)
        at = bisect_left(self._addresses, address)
        if at and (before := self._addresses[at - 1]) + self._sizes[before] == address:
            size += self._remove(before)
            address = before
        self._add(address, size)

    def too_small(self, size: int) -> int:
        """Count the free slots in holes of fewer than `size` slots."""
        return sum(hole for hole, _ in self._by_size[: bisect_left(self._by_size, (size, 0))])

    def holes(self) -> list[Piece]:
        """Return the holes by address."""
        return [Piece(address, self._sizes[address]) for address in self._addresses]

    def _add(self, address: int, size: int) -> None:
        insort(self._addresses, address)
        insort(self._by_size, (size, address))
        self._sizes[address] = size

    def _remove(self, address: int) -> int:
        size = self._sizes.pop(address)
        del self._addresses[bisect_left(self._addresses, address)]
        del self._by_size[bisect_left(self._by_size, (size, address))]
        return size


class BuddySpace:
    """Pieces of a power of two, cut by halving and merged with the half they were cut from.

    The space starts as the binary decomposition of its capacity, largest chunk first from address 0, so
    every chunk lies at a multiple of twice its size and a piece's buddy is `address XOR size`. The
    smallest chunk that is large enough is cut, and of equals the lowest.
    """

    def __init__(self, capacity: int) -> None:
        """Start as one chunk for each binary digit of the capacity."""
        self.free = capacity
        self._capacity = capacity
        # One list an exponent, highest address first, so that the lowest is the cheap end to take from.
        self._chunks: list[list[int]] = [[] for _ in range(capacity.bit_length())]
        address = 0
        for exponent in reversed(range(capacity.bit_length())):
            if capacity >> exponent & 1:
                self._chunks[exponent].append(address)
                address += 1 << exponent

    @property
    def largest(self) -> int:
        """Slots of the largest piece: the largest power of two in the capacity."""
        return self.largest_of(1)

    def largest_of(self, count: int) -> int:
        """Return the slots of the largest piece of which the empty space can give so many.

        ⌊capacity / 2ᵉ⌋ pieces of 2ᵉ: no chunk of the decomposition leaves a rest of that size.
        """
        each = self._capacity // count
        return 1 << each.bit_length() - 1 if each else 0

    def rounded(self, size: int) -> int:
        """Count the slots that a piece takes: the next power of two."""
        return 1 << _exponent(size)

    def take(self, size: int) -> Piece | None:
        """Halve the smallest chunk that is large enough until it no longer can be, and place there."""
        wanted = _exponent(size)
        exponent = wanted
        while exponent < len(self._chunks) and not self._chunks[exponent]:
            exponent += 1
        if exponent >= len(self._chunks):
            return None
        address = self._chunks[exponent].pop()
        while exponent > wanted:
            exponent -= 1
            self._add(address + (1 << exponent), exponent)
        self.free -= 1 << wanted
        return Piece(address, 1 << wanted)

    def give(self, piece: Piece) -> None:
        """Take a piece back and merge it as long as its buddy is free."""
        address = piece.address
        exponent = _exponent(piece.size)
        self.free += piece.size
        while self._remove(address ^ (1 << exponent), exponent):
            address &= ~(1 << exponent)
            exponent += 1
        self._add(address, exponent)

    def too_small(self, size: int) -> int:
        """Count the free slots in chunks smaller than the power of two that `size` takes."""
        return sum(len(chunks) << exponent for exponent, chunks in enumerate(self._chunks[: _exponent(size)]))

    def holes(self) -> list[Piece]:
        """Return the free chunks by address; buddies of one size are merged, other neighbours are not."""
        return sorted(
            Piece(address, 1 << exponent)
            for exponent, chunks in enumerate(self._chunks)
            for address in chunks
        )

    def _add(self, address: int, exponent: int) -> None:
        insort(self._chunks[exponent], address, key=neg)

    def _remove(self, address: int, exponent: int) -> bool:
        chunks = self._chunks[exponent]
        at = bisect_left(chunks, -address, key=neg)
        if at == len(chunks) or chunks[at] != address:
            return False
        del chunks[at]
        return True


def _exponent(size: int) -> int:
    """Return the exponent of the least power of two that is at least `size`, for `size` ≥ 1."""
    return (size - 1).bit_length()
