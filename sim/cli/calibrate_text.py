"""Profiles as text and as JSON: what was timed, how it was fitted, and how far that is off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.calibration.check import Verdict
    from kvsim.calibration.errors import Error
    from kvsim.calibration.profile import Profile

UNSHARED = (
    "shared pages: not timed; decodes that share a prefix are priced as if each read its own (no L2 discount)"
)


def profile_text(profile: Profile) -> str:
    """Return a profile's origin, a line a kernel, and the errors of whole steps."""
    lines = [profile.title, *(f"  {line}" for line in _origin(profile)), ""]
    names = [*profile.measured, *(name for name in profile.errors if name not in profile.measured)]
    width = max([len(name) for name in [*names, "kernel"]])
    lines.append(f"{'kernel':<{width}}  {'points':>7}  {'time of a call':>21}  mean error    p90    bias")
    for name in names:
        measured = profile.measured.get(name)
        points = f"{measured.points:,}" if measured else ""
        times = f"{_time(measured.least)} to {_time(measured.most)}" if measured else ""
        lines.append(
            f"{name:<{width}}  {points:>7}  {times:>21}  {_error(profile.errors.get(name))}".rstrip()
        )
    lines.append("")
    lines.append(
        "Errors are of held-out points: predicted / measured − 1. Steps sum timed kernels over all layers."
    )
    return "\n".join(lines)


def list_text(profiles: Mapping[str, Profile]) -> str:
    """Return a line a profile."""
    if not profiles:
        return "No profiles come with this kvsim."
    width = max(map(len, profiles))
    lines = [f"{'profile':<{width}}   decode  prefill   mixed  origin"]
    for name, profile in profiles.items():
        means = [profile.errors.get(f"step {kind}") for kind in ("decode", "prefill", "mixed")]
        cells = "  ".join(f"{f'{error.mean:.1%}' if error else '–':>7}" for error in means)
        statement = str(profile.source.get("statement") or profile.source.get("origin") or "")
        lines.append(f"{name:<{width}}  {cells}  {statement}".rstrip())
    lines.append("")
    lines.append("Mean errors of whole steps on held-out points. Use one with --cost NAME.")
    return "\n".join(lines)


def verdict_text(verdict: Verdict) -> str:
    """Return whether a profile passes, its errors by kind of step, where it holds, and what is odd about it."""
    profile = verdict.profile
    lines = [f"{verdict.name}: {'FAILED' if verdict.failures else 'passed'}  {profile.title}"]
    how = "fitted again from its points" if verdict.refitted else "as stored: the points are not in the file"
    statement = profile.source.get("statement")
    lines.append(f"  {how}{f'; {statement}' if statement else ''}")
    lines += [
        f"  {name:<12}  {_error(error)}  of {error.points:,} held-out points"
        for name, error in verdict.steps.items()
    ]
    if not profile.representative:
        lines.append("  not representative: no GPU was measured, so errors are not held against the gates")
    lines += [f"  measured: {line}" for line in _reach(profile)]
    lines += [f"  warning: {warning}" for warning in profile.warnings]
    lines += [f"  failure: {failure}" for failure in verdict.failures]
    return "\n".join(lines)


def profile_record(profile: Profile) -> dict[str, object]:
    """Return a profile without points and fits."""
    from kvsim.calibration.profile_file import profile_to_json

    record = profile_to_json(profile)
    return {name: value for name, value in record.items() if name not in ("points", "fits")}


def verdict_record(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as a JSON object."""
    return {
        "name": verdict.name,
        "profile": verdict.profile.title,
        "passed": not verdict.failures,
        "refitted": verdict.refitted,
        "errors": {name: error._asdict() for name, error in verdict.profile.errors.items()},
        "measured": list(_reach(verdict.profile)),
        "failures": list(verdict.failures),
        "warnings": list(verdict.profile.warnings),
    }


def _origin(profile: Profile) -> list[str]:
    lines = [] if profile.representative else ["not representative: no GPU was measured"]
    told = [
        name
        for name in ("statement", "origin", "licence", "timing", "lengths", "date")
        if profile.source.get(name)
    ]
    lines += [f"{name}: {profile.source[name]}" for name in told]
    for section in ("device", "software", "ceilings", "host"):
        words = [f"{name} {value}" for name, value in getattr(profile, section).items()]
        if words:
            lines.append(f"{section}: {', '.join(words)}")
    if not any(kind.layout == "shared" for kind in profile.fits.attention):
        lines.append(UNSHARED)
    for kind, fitted in profile.fits.attention.items():
        first = getattr(fitted.fit, "unsplit_from", None)
        if first is not None and fitted.of == kind and fitted.fit.affine.coefficients[-1]:
            each = 1e9 * fitted.factor * fitted.fit.affine.coefficients[-1]
            lines.append(
                f"longest decode: from {first} decodes on, {each:.3g} ns a layer for each token that it has "
                "beyond the mean"
            )
    return lines + [f"warning: {warning}" for warning in profile.warnings]


def _reach(profile: Profile) -> list[str]:
    """Say between which sizes attention was measured."""
    lines = []
    for kind, fitted in profile.fits.attention.items():
        if fitted.of != kind:
            continue
        sizes, reads = zip(*fitted.fit.affine.hull.corners, strict=True)
        words = f"{_range(sizes)} sequences that read {_range(reads)} tokens"
        if kind.op != "attn_decode":
            words = f"{_range(sizes)} tokens after {_range([each - 1 for each in reads])} cached ones"
        lines.append(f"{kind.words}: {words}")
    return lines


def _range(sizes: Sequence[float]) -> str:
    return f"{min(sizes):,.0f} to {max(sizes):,.0f}"


def _error(error: Error | None) -> str:
    return "" if error is None else f"{error.mean:>10.1%} {error.p90:>6.1%} {error.bias:>+7.1%}"


def _time(seconds: float) -> str:
    """Write a time with three digits, in µs or ms."""
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
