"""Contiguous allocation: each sequence gets one piece of memory at admission, as long as it may become."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from kvsim.errors import InputError
from kvsim.placement import Held, Placement, Reader, Stretch
from kvsim.policies.address_space import AddressSpace, BuddySpace, HoleSpace, Piece
from kvsim.policies.sample_copies import SampleCopies
from kvsim.policy import Lease, Match, Policy, Pool, Usage, reduced
from kvsim.registry import register
from kvsim.request import IntColumn, Sequence

_ENDINGS = {"max": "", "oracle": "-oracle", "pow2": "-pow2-oracle"}

_SPACES: dict[str, Callable[[int], AddressSpace]] = {
    "first-fit": HoleSpace,
    "best-fit": lambda capacity: HoleSpace(capacity, best_fit=True),
    "buddy": BuddySpace,
}


@register
class ContiguousPolicy(Policy):
    """Reserve one contiguous piece per sequence, for as long as it may become.

    These are the Orca variants of the vLLM paper (arXiv 2309.06180, §6.1). `reservation` is `max`
    (max_model_len tokens), `oracle` (the true final length) or `pow2` (the prompt and the next power of two of
    the true outputs: 32 for 25; at most max_model_len and the largest piece); the latter two read the true
    length and say so in `name`. `placement` is `first-fit`, `best-fit` or `buddy`, which rounds every piece up
    to a power of two, as the paper's Orca does. `block_size`, in tokens, only turns num_gpu_blocks_override
    into token slots: override · block_size, as it has no null block.

    Of several samples or beams each has a piece of its own, reserved at admission, all or none. Before they write their
    first token the prompt's KV is copied to all but one, and whoever a beam is forked from is copied whole.

    A token takes one address; in `usage` it counts Σ weight slots over the attention spans, because the
    piece holds all layers' KV of every token, whatever a layer's window no longer reads.
    """

    name = "contiguous"
    holds_samples = True
    kv_layout = "contiguous"

    def __init__(
        self, *, reservation: str = "max", placement: str = "first-fit", block_size: int = 16
    ) -> None:
        """Refuse unknown words at once."""
        _choose("reservation", reservation, _ENDINGS)
        _choose("placement", placement, _SPACES)
        if not isinstance(block_size, int) or block_size < 1:
            raise InputError(f"block_size must be at least 1 token, got {block_size!r}")
        self.reservation = reservation
        self.placement = placement
        self.block_size = block_size
        # The engine shows the true length only to a policy whose own name admits it.
        self.name = type(self).name + _ENDINGS[reservation]

    def reset(self, pool: Pool) -> None:
        """Start with an empty address space of the pool's tokens."""
        self._true_tokens = None if self.reservation == "max" else pool.true_tokens
        if self.reservation != "max" and self._true_tokens is None:
            raise InputError(f"reservation {self.reservation!r} needs the true length of every sequence")
        tokens = self._tokens(pool)
        if tokens < 1:
            raise InputError(f"the pool must hold at least 1 token, got {tokens}")
        self.spans, self.attention = reduced(pool.spans), pool.spans
        self._scale = self.slots_per_token
        self.capacity = tokens * self._scale
        self._pool = pool
        self._space = _SPACES[self.placement](tokens)
        self._pieces: dict[int, list[Piece]] = {}
        self._width = pool.width
        self._copies = SampleCopies(pool)

    def refuses(self, tokens: int) -> str | None:
        """Say why no piece of this pool can hold a sequence that ends with `tokens` tokens."""
        if tokens > self._pool.max_model_len:
            return f"{tokens} tokens are more than max_model_len {self._pool.max_model_len}"
        size = self._space.rounded(self._pool.max_model_len if self.reservation == "max" else tokens)
        largest = self._space.largest_of(self._width)
        if size > largest:
            which = "the largest" if self._width == 1 else f"the largest of {self._width} that"
            return (
                f"{tokens} tokens reserve a contiguous piece of {size} token slots; "
                f"{which} this pool can give has {largest}"
            )
        return None

    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Place the whole reservation, or nothing."""
        del match
        size = self._reservation(sequence)
        pieces: list[Piece] = []
        for _ in range(self._width):
            piece = self._space.take(size)
            if piece is None:
                # Neighbours are merged, so the space is then as it was.
                for taken in pieces:
                    self._space.give(taken)
                return None
            pieces.append(piece)
        self._pieces[sequence.index] = pieces
        return self._copies.admit(sequence, tokens, pieces[0].size)

    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Confirm the reservation; a piece never grows beyond it."""
        size = self._pieces[sequence.index][0].size
        return self._copies.grow(sequence, tokens, size) if tokens <= size else None

    def release(self, sequence: Sequence, finished: bool) -> None:
        """Give the pieces back."""
        del finished
        for piece in self._pieces.pop(sequence.index):
            self._space.give(piece)
        self._copies.forget(sequence)

    def reach(self, sequence: Sequence, lease: Lease, final: int) -> int:
        """Count what all pieces have and will have filled at the final length."""
        del lease
        pieces = self._pieces[sequence.index]
        return len(pieces) * self._scale * min(pieces[0].size, final)

    def footprint(self, tokens: int) -> int:
        """Count the slots of all pieces at that length."""
        return self._width * super().footprint(tokens)

    def transfers(self) -> float:
        """Return and forget the seconds of copying within the GPU's memory."""
        return self._copies.take_seconds()

    def usage(self, waiting: Sequence | None) -> Usage:
        """Count the slots in pieces, and the free ones in holes too small for `waiting`'s reservation."""
        held = self.capacity - self._space.free * self._scale
        small = 0 if waiting is None else self._space.too_small(self._reservation(waiting))
        return Usage(held, external=small * self._scale)

    def occupied(self) -> list[tuple[int, int, int]]:
        """Return (address, size, sequence index) of every piece by address, in token slots."""
        held = self._pieces.items()
        return sorted((piece.address, piece.size, index) for index, pieces in held for piece in pieces)

    def holes(self) -> list[Piece]:
        """Return the free pieces by address, in token slots."""
        return self._space.holes()

    def placements(self, running: Iterable[Sequence], waiting: Sequence | None) -> Placement:
        """Lay the pieces at their addresses, each token over the slots of all layers."""
        del running
        scale = self.slots_per_token
        address, tokens, holder = _columns(self.occupied(), 3)
        wanted = 0 if waiting is None else self._space.rounded(self._reservation(waiting))
        small = _columns([hole for hole in self.holes() if hole.size < wanted], 2) * scale
        readers = tuple(Reader(span.window, span.weight) for span in self.spans)
        held = Held(readers, address * scale, tokens, np.zeros(len(tokens), np.int64), holder)
        return Placement((held,), external=Stretch(*small))

    def _tokens(self, pool: Pool) -> int:
        if pool.num_gpu_blocks_override is None:
            return pool.tokens
        return pool.num_gpu_blocks_override * self.block_size

    def _reservation(self, sequence: Sequence) -> int:
        longest = self._pool.max_model_len
        if self._true_tokens is None:
            return longest
        final = self._true_tokens(sequence)
        if self.reservation == "oracle":
            return final
        # Outputs are final − prompt + 1: the last one never gets a slot.
        doubled = sequence.prompt_tokens + power_of_two(final - sequence.prompt_tokens + 1)
        return max(final, min(doubled, longest, self._space.largest_of(self._width)))

    @property
    def copies(self) -> int:
        """Sequences copied so far, whole prompts at first and dead beams' places later."""
        return self._copies.copies

    @property
    def copied_bytes(self) -> int:
        """Bytes of those."""
        return self._copies.copied_bytes


def power_of_two(tokens: int) -> int:
    """Return the least power of two that is at least `tokens`, for `tokens` ≥ 1."""
    return 1 << (tokens - 1).bit_length()


def _columns(rows: Iterable[tuple[int, ...]], width: int) -> IntColumn:
    return np.array(list(rows), np.int64).reshape(-1, width).T


def _choose(parameter: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise InputError(f"{parameter} must be one of {', '.join(allowed)}, got {value!r}")
