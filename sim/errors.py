"""The one error that is the user's to mend, and the hint that comes with a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Say what was given, where, and what would have been allowed.

    The command line prints its text as one line and exits with 2; every other exception is a
    defect of ours and keeps its traceback.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` with the closest known names, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
