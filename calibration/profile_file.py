"""Profile files: JSON, compressed or not, checked when read and written whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from kvsim.calibration.errors import Error
from kvsim.calibration.fits import FITTER
from kvsim.calibration.fits_file import fits_from_json, fits_to_json
from kvsim.calibration.points_file import point_from_json, point_to_json
from kvsim.calibration.profile import Measured, Profile, Split, check_fits, check_points
from kvsim.errors import InputError
from kvsim.model import Model

FORMAT = "kvsim-profile"
VERSION = 1
Json = dict[str, Any]  # Any: what JSON holds, checked field by field
HOST = ("step", "request", "captured_gap", "eager_gap")
"""Figures of `Profile.host`, in seconds."""
RECORDS = ("tool", "device", "software", "ceilings", "host", "source")
KNOWN = {
    "format",
    "version",
    "representative",
    "model",
    "points",
    "sentinels",
    "fits",
    "errors",
    "measured",
    "split",
    "warnings",
    *RECORDS,
}
SHAPE = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab")
WORDS = ("name", "dtype", "weight_dtype")
LONGEST = 256 << 20
"""Most bytes of JSON that are read, compressed files unpacked."""


def read_profile(path: Path | str) -> Profile:
    """Read and check a profile; fit again when another version of the fitter made its fits and it has its points."""
    place = Path(path)
    record = _parse(_read(place), str(place))
    if record.get("format") != FORMAT:
        raise InputError(f"{place}: format must be {FORMAT}, got {record.get('format')!r}")
    version = record.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"{place}: version must be a whole number ≥ 1, got {version!r}")
    if version > VERSION:
        raise InputError(f"{place}: version {version} is newer than {VERSION}, which this kvsim reads")
    try:
        return _profile(record, str(place))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(place)) else f"{place}: {text}") from error


def write_profile(profile: Profile, path: Path) -> Path:
    """Write to a temporary name in the same folder, then rename."""
    text = json.dumps(profile_to_json(profile), separators=(",", ":"), allow_nan=False, sort_keys=False)
    data = text.encode()
    if path.suffix == ".gz":
        # No time stamp: the same profile is the same bytes.
        data = gzip.compress(data, mtime=0)
    working = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        working.write_bytes(data)
        working.replace(path)
    except OSError as error:
        raise InputError(f"profile {str(path)!r} cannot be written: {error.strerror}") from error
    finally:
        working.unlink(missing_ok=True)
    return path


def shipped_profiles() -> dict[str, Path]:
    """Return the profiles that come with kvsim by name, `<gpu>/<model>` or `<gpu>/<model>-tpN`."""
    found: dict[str, Path] = {}
    folder = Path(str(files("kvsim.calibration"))) / "data"
    for path in sorted(folder.glob("*/*.json*")):
        if path.name.endswith((".json", ".json.gz")):
            found[f"{path.parent.name}/{path.name.partition('.json')[0]}"] = path
    return found


def profile_to_json(profile: Profile) -> Json:
    """Return a profile as a JSON object."""
    model = profile.model
    shape = {name: getattr(model, name) for name in (*WORDS[:1], *SHAPE, "gated", *WORDS[1:])}
    record: Json = {"format": FORMAT, "version": VERSION, "representative": profile.representative}
    record |= {name: dict(getattr(profile, name)) for name in RECORDS}
    record["model"] = shape | {"tp": profile.tensor_parallel_size}
    record["warnings"] = list(profile.warnings)
    record["split"] = profile.split._asdict()
    record["errors"] = {name: error._asdict() for name, error in profile.errors.items()}
    record["measured"] = {name: found._asdict() for name, found in profile.measured.items()}
    record["sentinels"] = list(profile.sentinels)
    record["fits"] = fits_to_json(profile.fits)
    if profile.points:
        record["points"] = [point_to_json(point) for point in profile.points]
    return dict(profile.extra) | record


def _profile(record: Json, place: str) -> Profile:
    model, size = _model(record.get("model"))
    points = _list(record, "points")
    representative = record.get("representative")
    if not isinstance(representative, bool):
        raise InputError(f"representative must be true or false, got {representative!r}")
    profile = Profile(
        model=model,
        tensor_parallel_size=size,
        points=tuple(point_from_json(each, f"points[{number}]") for number, each in enumerate(points)),
        representative=representative,
        split=_split(record.get("split", {})),
        sentinels=tuple(_list(record, "sentinels")),
        warnings=tuple(map(str, _list(record, "warnings"))),
        extra={name: value for name, value in record.items() if name not in KNOWN},
    )
    for name in RECORDS:
        setattr(profile, name, _object(record.get(name, {}), name))
    _check_host(profile.host)
    check_points(profile)
    _take_fits(profile, record, place)
    check_fits(profile)
    return profile


def _take_fits(profile: Profile, record: Json, place: str) -> None:
    """Use the fits as they are, or make them again from points when they are absent or of another version."""
    given = record.get("fits")
    if given is None and not profile.points:
        raise InputError("neither fits nor points: nothing to price a step by")
    tool = given.get("tool") if isinstance(given, dict) else FITTER
    if profile.points and (given is None or (isinstance(tool, int) and tool != FITTER)):
        profile.fit()
        return
    profile.fits = fits_from_json(given, place)
    for name, each in _object(record.get("errors", {}), "errors").items():
        profile.errors[name] = Error(**_figures(each, Error._fields, f"errors.{name}"))
    for name, each in _object(record.get("measured", {}), "measured").items():
        profile.measured[name] = Measured(**_figures(each, Measured._fields, f"measured.{name}"))


def _model(value: object) -> tuple[Model, int]:
    fields = _object(value, "model")
    counts = {name: fields.get(name) for name in (*SHAPE, "tp")}
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"model.{name} must be a whole number ≥ 1, got {count!r}")
    words = {name: fields.get(name) for name in WORDS}
    for name, word in words.items():
        if not isinstance(word, str) or not word:
            raise InputError(f"model.{name} must be text, got {word!r}")
    if not isinstance(fields.get("gated"), bool):
        raise InputError(f"model.gated must be true or false, got {fields.get('gated')!r}")
    size = counts.pop("tp")
    shape: Json = {**counts, **words, "gated": fields["gated"]}
    return Model(max_position_embeddings=1, source="profile", **shape), int(size or 1)


def _check_host(host: Mapping[str, object]) -> None:
    for name in HOST:
        value = host.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10:
            raise InputError(f"host.{name} must be seconds from 0 to 10, got {value!r}")
    if host and not host.get("source"):
        raise InputError("host needs a source: who measured it, or that it is assumed")


def _figures(value: object, names: tuple[str, ...], where: str) -> Json:
    """Read named numbers; all but `bias` are ≥ 0."""
    fields = _object(value, where)
    for name in names:
        number = fields.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or (name != "bias" and number < 0):
            raise InputError(
                f"{where}.{name} must be a number{'' if name == 'bias' else ' ≥ 0'}, got {number!r}"
            )
    return {name: fields[name] for name in names}


def _split(value: object) -> Split:
    fields = _object(value, "split")
    found: Json = {name: fields.get(name, default) for name, default in Split()._asdict().items()}
    for name, number in found.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < (name == "draws"):
            raise InputError(f"split.{name} must be a whole number ≥ {int(name == 'draws')}, got {number!r}")
    return Split(**found)


def _object(value: object, where: str) -> Json:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be an object, got {type(value).__name__}")
    return value


def _list(record: Json, name: str) -> list[Any]:  # Any: what JSON holds
    value = record.get(name, [])
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list, got {type(value).__name__}")
    return value


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            data = stream.read(LONGEST + 1)
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > LONGEST:
        raise InputError(f"{path}: more than {LONGEST >> 20} MiB of JSON")
    return data


def _parse(data: bytes, place: str) -> Json:
    def refuse(constant: str) -> float:
        raise InputError(f"{place}: {constant} is not a number that a profile may hold")

    try:
        record = json.loads(data, parse_constant=refuse)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{place}: not JSON: {error}") from error
    return _object(record, f"{place}: a profile")
