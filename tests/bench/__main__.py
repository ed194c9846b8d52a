"""Time the engine and the command line, and print one table beside the figures they should reach.

Run by `make bench`. CPU time is that of one process, so other load moves it less than it moves the clock on the wall;
it still does. The column `loop ms` is a fixed loop timed beside each row: compare figures of two days or machines
after multiplying by it. `--only GROUP,…` takes a part of the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

from kvsim.errors import nearest
from tests.bench.commands import compare_rows, startup_rows
from tests.bench.engine import conversation_rows, lognormal_rows, step_rows
from tests.bench.million import million_rows
from tests.bench.rows import Row, table
from tests.bench.timing import calibration_loop, machine
from tests.bench.workloads import COST, SLOW_COST

Group = Callable[[int, int], Iterator[Row]]
GROUPS: dict[str, tuple[int, int, Group]] = {
    "lognormal": (10_000, 3, lognormal_rows),
    "mooncake": (10_000, 3, conversation_rows),
    "million": (1_000_000, 3, million_rows),
    "steps": (100_000, 3, step_rows),
    "compare": (10_000, 3, compare_rows),
    "startup": (0, 5, lambda _, repeat: startup_rows(repeat)),
}
"""Size (requests, or steps), how often, and what to do."""


def main(words: list[str] | None = None) -> None:
    """Print a row a figure."""
    chosen = arguments().parse_args(words)
    about = machine() | {"loop": f"{min(calibration_loop() for _ in range(5)) * 1e3:.1f} ms"}
    rows: list[tuple[str, Row]] = []
    for name in chosen.only:
        size, repeat, group = GROUPS[name]
        size = max(1, int(size * chosen.scale))
        rows += [(name, row) for row in group(size, chosen.repeat or repeat)]
    if chosen.json:
        found = [{"group": name, **asdict(row)} for name, row in rows]
        print(json.dumps({**about, "cost": COST, "slower_cost": SLOW_COST, "rows": found}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(f"step cost {COST}, slower steps {SLOW_COST}; best of {chosen.repeat or '3 to 5'} runs\n")
    print(table([row for _, row in rows]))


def arguments() -> argparse.ArgumentParser:
    """Return what the command takes."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    names = ",".join(GROUPS)
    parser.add_argument("--only", type=groups, default=list(GROUPS), metavar="GROUP,…", help=f"of {names}")
    parser.add_argument("--repeat", type=times, help="take the best of so many runs; 3, and 5 for start-up")
    parser.add_argument("--scale", type=share, default=1.0, help="share of the requests and steps; 1")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def groups(text: str) -> list[str]:
    """Read the names of groups."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in GROUPS:
            raise argparse.ArgumentTypeError(f"unknown group {name!r}{nearest(name, GROUPS)}")
    return names


def times(text: str) -> int:
    """Read how often to run, at least once."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, got {text}")
    return int(text)


def share(text: str) -> float:
    """Read a share of the work, above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


if __name__ == "__main__":
    main()
