"""What a calibration has measured so far, a line a point, so that another can go on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvsim.calibration.points import Point
from kvsim.calibration.points_file import point_from_json, point_to_json
from kvsim.errors import InputError

Json = dict[str, Any]  # Any: what JSON holds, checked field by field


class PartialFile:
    """A file beside the profile: a line that says of what, then points and sentinels as they are measured.

    Lines are only ever added, so what is written stays, whatever ends the run; a last line cut short is left out.
    Of two lines with one point's id, the later one counts.
    """

    def __init__(self, output: Path) -> None:
        """Belong to the profile that will be written to `output`."""
        self.path = output.with_name(f"{output.name}.partial")
        self.points: list[Point] = []
        self._places: dict[str, int] = {}
        self.sentinels: list[Json] = []

    def start(self, about: Mapping[str, object], resume: bool) -> None:
        """Begin the file, or read it when resuming; what it is about must agree then."""
        if resume:
            self._read(dict(about))
            return
        if self._holds_points():
            raise InputError(f"{self.path} holds an earlier calibration: go on with --resume, or delete it")
        self.delete()
        self._append({"about": dict(about)})

    def add(self, point: Point) -> None:
        """Keep a point; one of the same id is replaced."""
        self._keep(point)
        self._append({"point": point_to_json(point)})

    def add_sentinel(self, sentinel: Json) -> None:
        """Keep a repeat of the sentinel."""
        self.sentinels.append(sentinel)
        self._append({"sentinel": sentinel})

    def delete(self) -> None:
        """Remove the file: the profile holds everything."""
        self.path.unlink(missing_ok=True)

    def _keep(self, point: Point) -> None:
        place = self._places.setdefault(point.id, len(self.points))
        self.points[place : place + 1] = [point]

    def _holds_points(self) -> bool:
        return self.path.exists() and b'{"point":' in self.path.read_bytes()

    def _append(self, record: Json) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from error

    def _read(self, about: Json) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"nothing to resume: there is no {self.path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path} cannot be read: {error}") from error
        whole, _, rest = text.rpartition("\n")
        lines = whole.split("\n")
        found = self._record(lines[0], 1).get("about")
        if not isinstance(found, dict):
            raise InputError(f"{self.path}: line 1 does not say what was calibrated")
        for name in about:
            if found.get(name) != about[name]:
                raise InputError(
                    f"{self.path}: {name} is {found.get(name)!r} there and {about[name]!r} now; resume with the same, "
                    "or delete the file"
                )
        for number, line in enumerate(lines[1:], 2):
            record = self._record(line, number)
            if "point" in record:
                self._keep(point_from_json(record["point"], f"{self.path}: line {number}"))
            elif "sentinel" in record:
                self.sentinels.append(record["sentinel"])
        if rest:
            self.path.write_text(whole + "\n", encoding="utf-8")

    def _record(self, line: str, number: int) -> Json:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{self.path}: line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{self.path}: line {number} must be an object")
        return record
