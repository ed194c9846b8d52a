"""A profile: what was timed on one GPU for one model, what was fitted to it, and how far the fit is off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from kvsim.calibration.attention_kinds import form_name
from kvsim.calibration.errors import Error, pooled_errors
from kvsim.calibration.fits import FITTER, Fits, fit_points
from kvsim.calibration.gemm_shapes import gemm_shapes, heads_per_gpu
from kvsim.calibration.held_out import is_fitted, with_enough_fitted, with_held_out
from kvsim.calibration.imported import STATEMENT
from kvsim.calibration.points import Point
from kvsim.errors import InputError
from kvsim.gpu import find_gpu, gpu_names
from kvsim.model import Model

NEEDED = ("attn_decode", "attn_prefill")
"""Operations without which no step can be priced; the GEMMs of the model's shapes come on top."""


class Measured(NamedTuple):
    """What was timed of a kernel."""

    points: int
    least: float
    """Seconds of the fastest call."""
    most: float
    """Seconds of the slowest call."""


class Split(NamedTuple):
    """Which splits the errors are of: the points' own, then `draws` − 1 others with seeds that follow on."""

    seed: int = 0
    draws: int = 1


@dataclass(slots=True, kw_only=True)
class Profile:
    """Points, fits and errors of one model on one GPU; see `calibration/README.md` for each field in the file."""

    model: Model
    """Shape and dtypes; layers and heads of the whole model."""
    tensor_parallel_size: int = 1
    """GPUs that share the model; all points are of one of them."""
    points: tuple[Point, ...] = ()
    """Empty in profiles that ship fits alone."""
    fits: Fits = field(default_factory=Fits)
    errors: dict[str, Error] = field(default_factory=dict)
    """By kernel and by kind of step, on points that the fit has not seen."""
    measured: dict[str, Measured] = field(default_factory=dict)
    """By kernel, how many points there are or were."""
    split: Split = field(default_factory=Split)
    """How points were held out for the errors."""
    representative: bool = True
    """Whether steps of a real GPU may be priced by it."""
    tool: Mapping[str, object] = field(default_factory=dict)
    device: Mapping[str, object] = field(default_factory=dict)
    software: Mapping[str, object] = field(default_factory=dict)
    ceilings: Mapping[str, object] = field(default_factory=dict)
    host: Mapping[str, object] = field(default_factory=dict)
    """Seconds of host time a step and a request, seconds between two kernels (`captured_gap` in a graph's replay,
    `eager_gap` in a stream) where the points are without, and their source; empty for none."""
    source: Mapping[str, object] = field(default_factory=dict)
    """Where the points come from, their licence, and whether the project measured them."""
    sentinels: Sequence[object] = ()
    warnings: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)  # Any: keys of the file that this version ignores

    @classmethod
    def build(
        cls,
        model: Model,
        points: Iterable[Point],
        *,
        tensor_parallel_size: int = 1,
        seed: int = 0,
        draws: int = 4,
        **record: Any,  # Any: the other fields of a profile, as they are
    ) -> Profile:
        """Check points, fit them, and state the error on points held out.

        A quarter of them is drawn with `seed` unless some are held out already. The error is that of a fit without
        those; the profile's own is then made of all points. With more than one of `draws` the errors are those of that
        many splits together, each drawn anew, so that a few unlucky points do not decide them.
        """
        given = tuple(points)
        is_split = any(point.held_out for point in given)
        given = with_enough_fitted(given) if is_split else with_held_out(given, seed)
        profile = cls(
            model=model,
            tensor_parallel_size=tensor_parallel_size,
            points=given,
            split=Split(seed, draws),
            **record,
        )
        check_points(profile)
        profile.fit()
        return profile

    def fit(self) -> None:
        """Fit all points, and state the error of fits to a part of them on the others."""
        self.fits = fit_points(
            [replace(point, held_out=False) for point in self.points], self.multiprocessors
        )
        check_fits(self)
        seed, draws = self.split
        splits = [self.points, *(with_held_out(self.points, seed + number) for number in range(1, draws))]
        self.errors = pooled_errors(splits, self.model, self.multiprocessors)
        self.measured = _measured(self.points)

    def save(self, path: Path | str, with_points: bool = True) -> Path:
        """Write the file at once or not at all; compressed when its name ends in .gz."""
        from kvsim.calibration.profile_file import write_profile

        kept = self if with_points else replace(self, points=())
        return write_profile(kept, Path(path))

    @property
    def is_imported(self) -> bool:
        """Tell whether the project did not measure the points itself."""
        return self.source.get("statement") == STATEMENT

    @property
    def gpu(self) -> str:
        """Name the GPU: as kvsim calls it, else as the device calls itself."""
        return str(
            self.device.get("gpu") or self.device.get("name") or self.device.get("type") or "unknown GPU"
        )

    @property
    def multiprocessors(self) -> int | None:
        """Count the GPU's multiprocessors: as the device says, else as the table of GPUs; None where unknown."""
        said = self.device.get("sms")
        if isinstance(said, int):
            return said
        return find_gpu(self.gpu).sms if self.gpu in gpu_names() else None

    @property
    def title(self) -> str:
        """Name GPU, model and number of GPUs."""
        size = self.tensor_parallel_size
        return f"{self.gpu}/{self.model.name}{f' on {size} GPUs' if size > 1 else ''}"

    @property
    def is_current(self) -> bool:
        """Tell whether this version's fitter made the fits."""
        return self.fits.tool == FITTER


def check_points(profile: Profile) -> None:
    """Raise InputError for points that cannot be of this model on this many GPUs."""
    model, size = profile.model, profile.tensor_parallel_size
    heads, shapes = heads_per_gpu(model, size), gemm_shapes(model, size)
    seen: set[str] = set()
    for point in profile.points:
        if point.id in seen:
            raise InputError(f"point {point.id}: the id occurs twice")
        seen.add(point.id)
        if point.op.startswith("attn") and point.heads != heads:
            raise InputError(
                f"point {point.id}: heads {_words(point.heads)} are another model's: {model.name} on "
                f"{size} GPU{'s' if size > 1 else ''} has {_words(heads)}"
            )
        if point.op == "gemm" and point.name not in shapes:
            raise InputError(f"point {point.id}: gemm {point.name!r} is none of {', '.join(shapes)}")
        if point.op in ("gemm", "lm_head") and (point.n or point.k):
            shape = shapes[point.name if point.op == "gemm" else "lm_head"]
            if (point.n, point.k) != shape:
                raise InputError(
                    f"point {point.id}: n × k is {point.n} × {point.k}, but {model.name} has {shape.n} × {shape.k}"
                )
        if point.op == "allreduce" and point.gpus != size:
            raise InputError(f"point {point.id}: an all-reduce of {point.gpus} GPUs in a profile of {size}")
    _check_split(profile.points)


def _check_split(points: Iterable[Point]) -> None:
    """Raise InputError where every point of a form is held out: nothing would be left to fit it to."""
    fitted = {form_name(point) for point in points if is_fitted(point)}
    for point in points:
        if point.held_out and "rejected" not in point.flags and form_name(point) not in fitted:
            raise InputError(
                f"point {point.id}: held out, like all others of {form_name(point)}; one must be fitted"
            )


def check_fits(profile: Profile) -> None:
    """Raise InputError where a kernel is missing without which no step has a price."""
    fits = profile.fits
    for op in NEEDED:
        if not any(kind.op == op for kind in fits.attention):
            raise InputError(f"profile of {profile.title}: missing op {op}: no points of it to fit")
    for name in gemm_shapes(profile.model, profile.tensor_parallel_size):
        if name != "lm_head" and name not in fits.gemm:
            raise InputError(f"profile of {profile.title}: missing op gemm {name!r}: no points of it to fit")
    for kind, fitted in fits.attention.items():
        if not any(fitted.fit.affine.coefficients):
            raise InputError(f"profile of {profile.title}: {kind.words} has no coefficient above 0")


def _measured(points: Iterable[Point]) -> dict[str, Measured]:
    times: dict[str, list[float]] = {}
    for point in points:
        if "rejected" not in point.flags:
            times.setdefault(form_name(point), []).append(point.seconds)
    return {name: Measured(len(times[name]), min(times[name]), max(times[name])) for name in sorted(times)}


def _words(heads: tuple[int, int, int]) -> str:
    return f"{heads[0]}/{heads[1]} of {heads[2]}"
