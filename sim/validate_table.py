"""The table of facts that kvsim is held to: `published.toml`, one row a number, each with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from kvsim.errors import InputError, nearest

CLASSES = {
    "E": "exact, to the digits that were printed",
    "T": "in trend, within a stated band",
    "C": "a claim whose conditions are not known well enough to hold anybody to it",
    "physics": "holds whatever the numbers",
}
BOUNDS = ("least", "most", "between")
TABLE = "published.toml"

Value = int | float | str | tuple[int | float | str, ...]


class Interval(NamedTuple):
    """A figure computed from inputs that are themselves rounded, or drawn."""

    low: float
    value: float
    high: float


class Tolerance(NamedTuple):
    """How near ours has to be."""

    kind: str = "equal"
    """equal; digits (rounded to so many decimals); within (share of the published); plus_minus (in its unit); least,
    most (the published is a bound); between (it is two)."""
    size: float = 0.0

    @property
    def words(self) -> str:
        """Say it as the table's column does."""
        if self.kind == "digits":
            return f"± {0.5 * 10**-self.size:g} (printed)"
        if self.kind == "within":
            return f"± {self.size * 100:g} %"
        if self.kind == "plus_minus":
            return f"± {self.size:g}"
        return {"equal": "equal", "least": "at least", "most": "at most", "between": "in range"}[self.kind]


EQUAL = Tolerance()


class Miss(NamedTuple):
    """What is known of a figure that is not within its tolerance."""

    least: float
    """Where ours lies all the same; outside, it is a new miss."""
    most: float
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row: what was published, where, and which measure with which parameters computes ours."""

    id: str
    kind: str
    """One of CLASSES."""
    what: str
    source: str
    short: str
    """Key of the source."""
    where: str = ""
    """Place in the source."""
    conditions: str = ""
    published: Value | None = None
    """In `unit`; None where no number is compared."""
    unit: str = ""
    scale: float = 1
    """What one `unit` is of the measure's."""
    tolerance: Tolerance = EQUAL
    measure: str = ""
    """Which of the named measures; empty where none reruns it."""
    figure: str = ""
    """Which of its figures."""
    parameters: Mapping[str, Any] = field(default_factory=dict)  # Any: what TOML holds
    miss: Miss | None = None
    unchecked: str = ""
    """Why nothing reruns it."""
    slow: bool = False
    """Whether it takes longer than seconds."""

    @property
    def origin(self) -> str:
        """Source and place."""
        return f"{self.source}, {self.where}" if self.where else self.source

    @property
    def short_origin(self) -> str:
        """The same, the source by its key."""
        return f"{self.short}, {self.where}" if self.where else self.short


_FIELDS = {entry.name for entry in fields(Check)} - {"kind", "short", "tolerance", "parameters"}
_TOLERANCES = ("exact", "digits", "within", "plus_minus", "bound")


@cache
def all_checks() -> tuple[Check, ...]:
    """Return every row of the table, in its order."""
    return read_checks(files("kvsim").joinpath(TABLE).read_text(encoding="utf-8"), TABLE)


def read_checks(text: str, name: str) -> tuple[Check, ...]:
    """Read rows from TOML.

    A [[check]] with `cases` is as many rows, named ID/NAME, each with what the case says on top. What is not a field
    of a row is a parameter of its measure; `setup` names a [setups] table of parameters that rows share.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML: {error}") from error
    rows = tuple(_check(entry, table, name) for entry in _entries(table.get("check", ())))
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise InputError(f"{name}: check {row.id} is there twice")
        seen.add(row.id)
    return rows


def chosen_checks(checks: Sequence[Check], only: Sequence[str], kind: str | None, slow: bool) -> list[Check]:
    """Return the rows asked for, in the table's order.

    P50 stands for all lines of that id, P50/1000 for one, L1 for every line of that name; slow ones included.
    """
    known = {name for check in checks for name in _names(check)}
    for wanted in only:
        if wanted not in known:
            raise InputError(f"--only: there is no check {wanted!r}{nearest(wanted, known)}")
    return [
        check
        for check in checks
        if (kind is None or check.kind == kind)
        and (bool(_names(check) & set(only)) if only else slow or not check.slow)
    ]


def _names(check: Check) -> set[str]:
    head, _, name = check.id.partition("/")
    return {check.id, head, name or head}


def _entries(raw: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:  # Any: what TOML holds
    for entry in raw:
        shared = {key: value for key, value in entry.items() if key != "cases"}
        if "cases" not in entry:
            yield shared
        for case in entry.get("cases", ()):
            own = {key: value for key, value in case.items() if key != "name"}
            # A case's own tolerance takes the place of the one for all.
            rest = {k: v for k, v in shared.items() if not (set(own) & {*_TOLERANCES} and k in _TOLERANCES)}
            yield rest | own | {"id": f"{entry['id']}/{case['name']}"}


def _check(entry: dict[str, Any], table: Mapping[str, Any], name: str) -> Check:  # Any: what TOML holds
    here, sources = f"{name}: check {entry.get('id', '?')}", table.get("sources", {})
    if "setup" in entry:
        setup = entry.pop("setup")
        if setup not in table.get("setups", {}):
            raise InputError(f"{here}: setup must be one of [setups], got {setup!r}")
        entry = table["setups"][setup] | entry
    given = {key: value for key, value in entry.items() if key in _FIELDS}
    parameters = {
        key: value
        for key, value in entry.items()
        if key not in {*_FIELDS, *_TOLERANCES, "class", "unchecked"}
    }
    if entry.get("class") not in CLASSES:
        raise InputError(f"{here}: class must be one of {', '.join(CLASSES)}, got {entry.get('class')!r}")
    if entry.get("source") not in sources:
        raise InputError(f"{here}: source must be one of [sources], got {entry.get('source')!r}")
    if bool(entry.get("measure")) == bool(entry.get("unchecked")):
        raise InputError(f"{here}: needs either a measure or the reason why it is unchecked")
    given |= {"short": given["source"], "source": sources[given["source"]]}
    if isinstance(given.get("published"), list):
        given["published"] = tuple(given["published"])
    if "miss" in given:
        given["miss"] = Miss(**given["miss"])
    try:
        return Check(kind=entry["class"], tolerance=_tolerance(entry, here), parameters=parameters, **given)
    except TypeError as error:
        raise InputError(f"{here}: {error}") from error


def _tolerance(entry: Mapping[str, Any], here: str) -> Tolerance:  # Any: what TOML holds
    if isinstance(entry.get("published"), str | list) and entry.get("bound") != "between":
        return Tolerance()
    found = [key for key in _TOLERANCES if key in entry]
    if len(found) > 1:
        raise InputError(f"{here}: has both {' and '.join(found)}")
    if not found:
        return Tolerance()
    key = found[0]
    if key == "exact":
        return Tolerance()
    if key == "bound":
        if entry[key] not in BOUNDS:
            raise InputError(f"{here}: bound must be one of {', '.join(BOUNDS)}, got {entry[key]!r}")
        return Tolerance(entry[key])
    return Tolerance(key, entry[key])
