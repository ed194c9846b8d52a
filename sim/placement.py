"""Where things lie in a pool: what a policy answers when somebody wants to draw its memory.

Addresses are slots, 0 … `Policy.capacity` − 1. What an answer does not list is free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kvsim.request import IntColumn


class Reader(NamedTuple):
    """Layers whose KV lies in a piece, and how much of it they still read."""

    window: int | None
    """Last tokens they attend to; None for all; a `kvsim.window.Chunk` for those since a multiple of it."""
    slots: int
    """Slots that one token takes because of them."""
    sinks: int = 0
    """First tokens that they read besides the window."""


class Held(NamedTuple):
    """Pieces that sequences hold: columns of one length, a row a piece and holder.

    A piece that several sequences share has a row for each of them.
    """

    readers: tuple[Reader, ...]
    """What lies in every one of these pieces; a token takes Σ slots of them."""
    address: IntColumn
    """First slot of the piece."""
    tokens: IntColumn
    """Tokens it has room for."""
    first: IntColumn
    """Which of its holder's tokens is the first in it, from 0."""
    holder: IntColumn
    """Row of the sequence that holds it."""


class Stretch(NamedTuple):
    """Pieces that nobody holds: columns of one length."""

    address: IntColumn
    """First slot."""
    slots: IntColumn
    """Slots in it."""


NOWHERE = Stretch(np.empty(0, np.int64), np.empty(0, np.int64))
"""No pieces."""


class Placement(NamedTuple):
    """A pool at one moment."""

    held: tuple[Held, ...]
    """Pieces by the layers whose KV they hold."""
    reusable: Stretch = NOWHERE
    """Cached content that nobody holds."""
    external: Stretch = NOWHERE
    """Holes smaller than what the next waiting request would take."""
