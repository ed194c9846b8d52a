"""Fits as JSON and back: every form by name, every number checked."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

from kvsim.calibration.affine import Affine
from kvsim.calibration.attention_kinds import PHASES, Attention, Fitted, Kind
from kvsim.calibration.curve import Curve
from kvsim.calibration.fit_attention import DecodeFit
from kvsim.calibration.fits import FITTER, Fits
from kvsim.calibration.hull import Hull
from kvsim.calibration.residual_table import Table
from kvsim.errors import InputError, nearest

Json = dict[str, Any]  # Any: what JSON holds, checked field by field
FORMS = ("affine", "affine+table", "relative", "curve")
"""affine: coefficients · features; affine+table: and a table of what they miss; relative: factor · another fit −
discount · shared tokens; curve: seconds at nodes, and a slope beyond the last."""
ADDED = ("longest",)
"""Coefficients that files of earlier versions lack: 0 there."""
CURVES = ("gemm", "elementwise", "allreduce", "launch")
LONE_CURVES = ("lm_head", "sampler")


def fits_to_json(fits: Fits) -> Json:
    """Return the fits as a JSON object."""
    record: Json = {"tool": fits.tool, "attention": [_attention(*each) for each in fits.attention.items()]}
    for group in CURVES:
        record[group] = {name: _curve(curve) for name, curve in getattr(fits, group).items()}
    for name in LONE_CURVES:
        curve = getattr(fits, name)
        record[name] = None if curve is None else _curve(curve)
    return record


def fits_from_json(record: object, place: str) -> Fits:
    """Read fits; `place` names the file in messages."""
    fields = _object(record, f"{place}: fits")
    tool = fields.get("tool")
    if not isinstance(tool, int) or isinstance(tool, bool) or tool < 1:
        raise InputError(f"{place}: fits.tool must be a version ≥ 1, got {tool!r}")
    if tool > FITTER:
        raise InputError(
            f"{place}: fitted by a newer version: fits.tool is {tool}, this one knows up to {FITTER}"
        )
    fits = Fits(attention=_read_attention(fields.get("attention"), place), tool=tool)
    for group in CURVES:
        curves = _object(fields.get(group, {}), f"{place}: fits.{group}")
        where = f"{place}: fits.{group}"
        setattr(fits, group, {name: _read_curve(each, f"{where}.{name}") for name, each in curves.items()})
    for name in LONE_CURVES:
        if fields.get(name) is not None:
            setattr(fits, name, _read_curve(fields[name], f"{place}: fits.{name}"))
    return fits


def _attention(kind: Kind, fitted: Fitted) -> Json:
    record = _kind_to_json(kind)
    if fitted.of != kind:
        return record | {
            "form": "relative",
            "of": _kind_to_json(fitted.of),
            "factor": fitted.factor,
            "discount": fitted.discount,
        }
    affine = fitted.fit.affine
    if isinstance(fitted.fit, DecodeFit) and fitted.fit.unsplit_from is not None:
        record["unsplit_from"] = fitted.fit.unsplit_from
    record["form"] = "affine" if affine.table is None else "affine+table"
    record["coefficients"] = dict(zip(fitted.fit.terms, affine.coefficients, strict=True))
    if affine.table is not None:
        record["axes"] = [list(axis) for axis in affine.table.axes]
        record["seconds"] = affine.table.values.ravel().tolist()
    record["hull"] = [list(corner) for corner in affine.hull.corners]
    return record


def _curve(curve: Curve) -> Json:
    return {
        "form": "curve",
        "nodes": list(curve.nodes),
        "seconds": list(curve.seconds),
        "slope": curve.slope,
    }


def _read_attention(records: object, place: str) -> Attention:
    if not isinstance(records, list):
        raise InputError(f"{place}: fits.attention must be a list, got {type(records).__name__}")
    found: Attention = {}
    relative: list[tuple[Kind, Json, str]] = []
    for number, each in enumerate(records):
        where = f"{place}: fits.attention[{number}]"
        record = _object(each, where)
        kind = _kind(record, where)
        if _form(record, where) == "relative":
            relative.append((kind, record, where))
        else:
            found[kind] = _own(kind, record, where)
    for kind, record, where in relative:
        of = _kind(_object(record.get("of"), f"{where}.of"), f"{where}.of")
        if of not in found:
            raise InputError(f"{where}: refers to {of.words}, which is not among the fits")
        factor, discount = (_number(record, name, where) for name in ("factor", "discount"))
        found[kind] = found[of]._replace(factor=factor, discount=discount)
    return found


def _own(kind: Kind, record: Json, where: str) -> Fitted:
    phase = PHASES[kind.op]
    coefficients = _object(record.get("coefficients"), f"{where}.coefficients")
    missing = [term for term in phase.terms if term not in coefficients and term not in ADDED]
    if missing:
        raise InputError(f"{where}: no coefficient {missing[0]!r}; {kind.op} has {', '.join(phase.terms)}")
    given = dict.fromkeys(ADDED, 0.0) | coefficients
    values = tuple(_number(given, term, f"{where}.coefficients") for term in phase.terms)
    table = None
    if record["form"] == "affine+table":
        table = _table(record, {"attn_decode": 2, "attn_prefill": 2, "attn_mixed": 4}[kind.op], where)
    corners = record.get("hull")
    if not isinstance(corners, list) or not corners:
        raise InputError(f"{where}: hull must be a list of corners")
    hull = Hull(tuple(_pair(corner, f"{where}.hull") for corner in corners))
    affine = Affine(values, table, hull)
    first = _count(record, "unsplit_from", where)
    return Fitted(DecodeFit(affine, first) if phase is DecodeFit else phase(affine), kind)


def _table(record: Json, dimensions: int, where: str) -> Table:
    axes = record.get("axes")
    if not isinstance(axes, list) or len(axes) != dimensions:
        raise InputError(f"{where}: axes must be {dimensions} lists of nodes")
    nodes = tuple(_ascending(axis, f"{where}.axes") for axis in axes)
    seconds = _numbers(record.get("seconds"), f"{where}.seconds", least=-float("inf"))
    size = int(np.prod([len(axis) for axis in nodes]))
    if len(seconds) != size:
        raise InputError(f"{where}: {len(seconds)} seconds for {size} nodes; lengths disagree")
    return Table(nodes, np.array(seconds).reshape([len(axis) for axis in nodes]))


def _read_curve(record: object, where: str) -> Curve:
    fields = _object(record, where)
    if _form(fields, where) != "curve":
        raise InputError(f"{where}: form must be curve, got {fields['form']!r}")
    nodes = _ascending(fields.get("nodes"), f"{where}.nodes")
    seconds = _numbers(fields.get("seconds"), f"{where}.seconds")
    if len(seconds) != len(nodes):
        raise InputError(f"{where}: {len(seconds)} seconds for {len(nodes)} nodes; lengths disagree")
    if any(before > after for before, after in pairwise(seconds)):
        raise InputError(f"{where}.seconds must not fall")
    return Curve(nodes, seconds, _number(fields, "slope", where))


def _form(record: Json, where: str) -> str:
    form = record.get("form")
    if not isinstance(form, str) or form not in FORMS:
        raise InputError(
            f"{where}: unknown fit form {form!r}{nearest(str(form), FORMS)}; known: {', '.join(FORMS)}"
        )
    return str(form)


def _kind_to_json(kind: Kind) -> Json:
    record: Json = kind._asdict()
    if not record["dense"]:
        del record["dense"]
    return record


def _kind(record: Mapping[str, object], where: str) -> Kind:
    op, layout = record.get("op"), record.get("layout")
    if not isinstance(op, str) or op not in PHASES or layout not in ("paged", "contiguous", "shared"):
        raise InputError(
            f"{where}: op must be one of {', '.join(PHASES)} with a layout, got {op!r} and {layout!r}"
        )
    page, window = (_count(record, name, where) for name in ("page", "window"))
    dense = record.get("dense", False)
    if not isinstance(dense, bool):
        raise InputError(f"{where}: dense must be true or false, got {dense!r}")
    return Kind(str(op), str(layout), page, window, str(record.get("kv_dtype")), dense)


def _count(record: Mapping[str, object], name: str, where: str) -> int | None:
    value = record.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InputError(f"{where}: {name} must be null or ≥ 1, got {value!r}")
    return value


def _object(value: object, where: str) -> Json:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be an object, got {type(value).__name__}")
    return value


def _number(record: Mapping[str, object], name: str, where: str) -> float:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise InputError(f"{where}: {name} must be a number ≥ 0, got {value!r}")
    return float(value)


def _numbers(values: object, where: str, least: float = 0.0) -> tuple[float, ...]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{where} must be a list of numbers")
    for value in values:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not isfinite(value)
            or value < least
        ):
            raise InputError(f"{where} must be finite numbers{' ≥ 0' if least == 0 else ''}, got {value!r}")
    return tuple(map(float, values))


def _ascending(values: object, where: str) -> tuple[float, ...]:
    nodes = _numbers(values, where)
    if any(low >= high for low, high in pairwise(nodes)):
        raise InputError(f"{where} must ascend")
    return nodes


def _pair(values: object, where: str) -> tuple[float, float]:
    pair = _numbers(values, where)
    if len(pair) != 2 or min(pair) <= 0:
        raise InputError(f"{where}: a corner is two numbers > 0, got {values!r}")
    return pair[0], pair[1]
