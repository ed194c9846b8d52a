"""Holes and buddies: hand-made cases, then equality with models that look at every slot."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.policies.address_space import AddressSpace, BuddySpace, HoleSpace, Piece

SPACES = {
    "first-fit": HoleSpace,
    "best-fit": lambda capacity: HoleSpace(capacity, best_fit=True),
    "buddy": BuddySpace,
}

# Positive: take so many slots. Zero or negative: give back the piece at that place of the list.
moves = st.lists(st.integers(-12, 40), max_size=60)


def naive_holes(capacity: int, pieces: list[Piece]) -> list[Piece]:
    """Maximal runs of slots that no piece covers."""
    covered = {slot for piece in pieces for slot in range(piece.address, sum(piece))}
    holes = []
    for is_free, run in groupby(range(capacity), key=lambda slot: slot not in covered):
        slots = list(run)
        if is_free:
            holes.append(Piece(slots[0], len(slots)))
    return holes


def naive_chunks(capacity: int, pieces: list[Piece]) -> list[Piece]:
    """Largest aligned chunks of the binary decomposition that no piece touches."""
    address, chunks = 0, []
    for size in (1 << exponent for exponent in reversed(range(capacity.bit_length()))):
        if capacity & size:
            chunks += _free_inside(Piece(address, size), pieces)
            address += size
    return chunks


def _free_inside(chunk: Piece, pieces: list[Piece]) -> list[Piece]:
    touching = [p for p in pieces if p.address < sum(chunk) and chunk.address < sum(p)]
    if not touching:
        return [chunk]
    if chunk in touching:
        return []
    half = chunk.size // 2
    halves = (Piece(chunk.address, half), Piece(chunk.address + half, half))
    return [free for part in halves for free in _free_inside(part, touching)]


def naive_choice(placement: str, holes: list[Piece], size: int) -> Piece | None:
    """Choose as the docstrings say, by looking at every hole."""
    large = [hole for hole in holes if hole.size >= size]
    if not large:
        return None
    if placement == "first-fit":
        return Piece(min(large).address, size)
    return Piece(min(large, key=lambda hole: (hole.size, hole.address)).address, size)


@pytest.mark.parametrize("placement", SPACES)
@given(capacity=st.integers(1, 150), moves=moves)
def test_every_placement_equals_the_model_that_looks_at_every_slot(
    placement: str, capacity: int, moves: list[int]
) -> None:
    space: AddressSpace = SPACES[placement](capacity)
    find = naive_chunks if placement == "buddy" else naive_holes
    pieces: list[Piece] = []
    for move in moves:
        holes = find(capacity, pieces)
        assert space.holes() == holes
        if move > 0:
            size = space.rounded(move)
            piece = space.take(move)
            assert piece == naive_choice(placement, holes, size)
            pieces += [piece] if piece else []
            assert space.too_small(move) == sum(h.size for h in find(capacity, pieces) if h.size < size)
        elif -move < len(pieces):
            space.give(pieces.pop(-move))


@pytest.mark.parametrize("placement", SPACES)
@given(capacity=st.integers(1, 500), moves=moves)
def test_pieces_never_overlap_and_the_space_is_whole_at_the_end(
    placement: str, capacity: int, moves: list[int]
) -> None:
    space: AddressSpace = SPACES[placement](capacity)
    new = space.holes()
    pieces = [piece for size in moves if size > 0 and (piece := space.take(size))]

    slots = [slot for piece in pieces for slot in range(piece.address, sum(piece))]
    assert len(slots) == len(set(slots)) == capacity - space.free
    assert all(0 <= slot < capacity for slot in slots)

    for piece in pieces[1::2] + pieces[::2]:
        space.give(piece)
    assert space.holes() == new
    assert space.free == capacity


@pytest.mark.parametrize("placement", SPACES)
@given(capacity=st.integers(1, 500))
def test_the_empty_space_gives_its_largest_piece_and_no_larger_one(placement: str, capacity: int) -> None:
    space: AddressSpace = SPACES[placement](capacity)

    assert space.take(space.largest + 1) is None
    assert space.take(space.largest) == Piece(0, space.largest)


def _with_holes_of(best_fit: bool) -> HoleSpace:
    """Make 100 slots whose holes are 0–29, 40–49 and 60–69; the rest is held."""
    space = HoleSpace(100, best_fit=best_fit)
    pieces = [space.take(size) for size in (30, 10, 10, 10, 10, 30)]
    for at in (0, 2, 4):
        piece = pieces[at]
        assert piece is not None
        space.give(piece)
    return space


def test_first_fit_takes_the_lowest_hole_that_is_large_enough() -> None:
    assert _with_holes_of(best_fit=False).take(10) == Piece(0, 10)


def test_best_fit_takes_the_smallest_and_then_the_lowest_hole() -> None:
    space = _with_holes_of(best_fit=True)

    assert space.take(10) == Piece(40, 10)
    assert space.take(10) == Piece(60, 10)
    assert space.take(10) == Piece(0, 10)


def test_a_piece_given_back_merges_with_the_hole_on_either_side() -> None:
    space = _with_holes_of(best_fit=False)

    space.give(Piece(50, 10))

    assert space.holes() == [Piece(0, 30), Piece(40, 30)]


def test_enough_free_slots_in_small_holes_are_no_place() -> None:
    space = _with_holes_of(best_fit=True)

    assert space.free == 50
    assert space.take(31) is None
    assert (space.too_small(31), space.too_small(30), space.too_small(10)) == (50, 20, 0)


def test_buddies_split_downwards_and_merge_upwards() -> None:
    space = BuddySpace(16)

    small = space.take(3)
    assert small == Piece(0, 4)
    assert space.holes() == [Piece(4, 4), Piece(8, 8)]
    assert space.take(5) == Piece(8, 8)

    space.give(small)
    assert space.holes() == [Piece(0, 8)]


def test_neighbours_that_are_no_buddies_stay_apart() -> None:
    space = BuddySpace(16)
    pieces = [piece for _ in range(4) if (piece := space.take(4))]

    space.give(pieces[1])
    space.give(pieces[2])

    assert space.holes() == [Piece(4, 4), Piece(8, 4)]
    assert space.take(8) is None


def test_a_capacity_that_is_no_power_of_two_is_its_binary_digits() -> None:
    sizes = [hole.size for hole in BuddySpace(15_728).holes()]

    assert sizes == [8192, 4096, 2048, 1024, 256, 64, 32, 16]


@pytest.mark.parametrize("placement", SPACES)
def test_a_space_of_nothing_gives_nothing(placement: str) -> None:
    space: AddressSpace = SPACES[placement](0)

    assert (space.largest, space.take(1), space.holes(), space.too_small(5)) == (0, None, [], 0)
