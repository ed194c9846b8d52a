"""Whether a profile still says what it says: fit again, compare, and hold the errors against gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kvsim.calibration.errors import Error
from kvsim.calibration.fits_file import fits_to_json
from kvsim.calibration.profile import Profile
from kvsim.calibration.profile_file import read_profile

GATES = {"step decode": 0.05, "step prefill": 0.06, "step mixed": 0.06}
"""Largest mean relative error of whole steps on held-out points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the check of one profile found."""

    name: str
    profile: Profile
    refitted: bool
    """Whether there were points to fit again; else the stored errors are shown."""
    failures: tuple[str, ...]
    """Why it does not pass, a sentence each."""

    @property
    def steps(self) -> dict[str, Error]:
        """Errors of whole steps."""
        return {name: error for name, error in self.profile.errors.items() if name in GATES}


def check_profile_file(path: Path, name: str, gates: Mapping[str, float] = GATES) -> Verdict:
    """Read a profile, repeat its fit where it has its points, and compare its errors with the gates.

    A profile that measured no GPU must be whole and have errors; how large they are says nothing and fails nothing.
    """
    profile = read_profile(path)
    failures: list[str] = []
    if profile.points:
        stored, errors = _in_any_order(fits_to_json(profile.fits)), profile.errors
        profile.fit()
        if _in_any_order(fits_to_json(profile.fits)) != stored:
            failures.append("the points no longer give the stored fits")
        if errors and profile.errors != errors:
            failures.append("the points no longer give the stored errors")
    missing = [step for step in ("step decode", "step prefill") if step not in profile.errors]
    failures += [f"no error is known of {step}" for step in missing]
    for step, most in gates.items() if profile.representative else ():
        error = profile.errors.get(step)
        if error is not None and error.mean > most:
            failures.append(f"{step} is off by {error.mean:.2%} on average, more than {most:.2%}")
    return Verdict(name=name, profile=profile, refitted=bool(profile.points), failures=tuple(failures))


def _in_any_order(fits: object) -> object:
    """Sort lists of fits: reading a file may put them in another order than fitting does."""
    if isinstance(fits, Mapping):
        return {key: _in_any_order(value) for key, value in fits.items()}
    if isinstance(fits, list) and fits and isinstance(fits[0], Mapping):
        return sorted((_in_any_order(fit) for fit in fits), key=repr)
    return fits
