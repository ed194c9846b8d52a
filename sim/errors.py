"""The one error that is the user's to mend."""

from __future__ import annotations


class InputError(ValueError):
    """Say what was given, where, and what would have been allowed.

    The command line prints its text as one line and exits with 2; every other exception is a
    defect of ours and keeps its traceback.
    """
