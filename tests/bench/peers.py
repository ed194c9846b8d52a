"""Compare kvsim with other simulators on the same work in one run: requests per CPU-second, side by side.

Run by `make bench-peers`. The peers are installed, at the versions below, into an environment of their own outside
the repository; one that cannot be had is said to be absent, and why.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.__main__ import times
from tests.bench.peer_work import Work, all_work
from tests.bench.timing import ROOT, calibration_loop, machine, say

HERE = Path(__file__).parent
ENVIRONMENT = Path.home() / ".cache" / "kvsim" / "peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """One that is compared."""

    name: str
    script: str
    about: str
    """What it computes, and what it leaves out."""
    package: str = ""
    version: str = ""
    shares_content: bool = True
    """Whether it can replay a trace of content ids."""


OURS = Simulator(
    name="kvsim",
    script="peer_kvsim.py",
    about="pure Python; vLLM's scheduling step by step, the memory split at every step, latencies of every request",
)
PEERS = (
    Simulator(
        name="Dynamo mocker",
        script="peer_dynamo.py",
        package="ai-dynamo-runtime",
        version="1.6.1",
        about="Rust, offline replay; a vLLM-like scheduler with blocks and an LRU prefix cache; here a fixed time for "
        "a step with and without a prefill; latency percentiles, no memory split; its CPU time includes reading the "
        "trace",
    ),
    Simulator(
        name="sched-sim",
        script="peer_sched_sim.py",
        package="sched-sim",
        version="0.2.1",
        shares_content=False,
        about="pure Python; its chunked-prefill scheduler, which has no limit of running requests; blocks on demand; "
        "latency percentiles, peak memory; needs every prompt token as a number to share prefixes, so not run on ids",
    ),
)


class AbsentError(Exception):
    """A peer, or a figure of one, that cannot be had."""


def main(words: list[str] | None = None) -> None:
    """Install the peers, replay, print the table."""
    chosen = arguments().parse_args(words)
    about = machine() | {"loop": f"{min(calibration_loop() for _ in range(5)) * 1e3:.1f} ms"}
    found = {OURS.name: Path(sys.executable)}
    absent = {}
    for peer in PEERS:
        try:
            found[peer.name] = install(peer, chosen.venv)
        except AbsentError as reason:
            absent[peer.name] = str(reason)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for work in all_work(chosen.requests, Path(folder)):
            rows += compare(work, found, Path(folder), chosen.repeat, chosen.limit)
    if chosen.json:
        print(json.dumps({**about, "rows": rows, "absent": absent}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
    print(markdown(rows))
    for simulator in (OURS, *PEERS):
        version = f" {simulator.version}" if simulator.version else ""
        why = f"absent: {absent[simulator.name]}" if simulator.name in absent else simulator.about
        print(f"- {simulator.name}{version}: {why}.")


def install(peer: Simulator, environment: Path) -> Path:
    """Return the Python of an environment that has the peer at its version; make both if need be."""
    python = environment / "bin" / "python"
    if not python.exists():
        say(f"making {environment}")
        _quietly([sys.executable, "-m", "venv", environment])
    version = f"from importlib.metadata import version; print(version({peer.package!r}))"
    asked = subprocess.run([python, "-c", version], capture_output=True, text=True, check=False)
    if asked.stdout.strip() != peer.version:
        say(f"installing {peer.package} {peer.version}")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", "install"]
        _quietly([*pip, f"{peer.package}=={peer.version}"])
    return python


def compare(
    work: Work, pythons: dict[str, Path], folder: Path, repeat: int, limit: int
) -> list[dict[str, object]]:
    """Replay one work with everybody in turn, a few times; return a row each, with the best run."""
    settings = work.write(folder)
    best: dict[str, dict[str, float]] = {}
    reasons: dict[str, str] = {}
    for _ in range(repeat):
        for simulator in (OURS, *PEERS):
            name = simulator.name
            if name not in pythons or name in reasons:
                continue
            if work.prefix and not simulator.shares_content:
                reasons[name] = "does not read content ids"
                continue
            say(f"{work.name}: {name}")
            try:
                run = replay(pythons[name], simulator, settings, limit)
            except AbsentError as reason:
                reasons[name] = str(reason)
                continue
            best[name] = min(best.get(name, run), run, key=lambda one: one["seconds"])
    rows: list[dict[str, object]] = [
        {"work": work.name, "simulator": name, "requests": work.requests, **run} for name, run in best.items()
    ]
    return rows + [{"work": work.name, "simulator": name, "why": why} for name, why in reasons.items()]


def replay(python: Path, simulator: Simulator, settings: Path, limit: int) -> dict[str, float]:
    """Run one replay in a process of its own; AbsentError when it fails or takes longer than `limit` seconds."""
    ours = ["-m", f"tests.bench.{Path(simulator.script).stem}"]
    command = [python, *(ours if simulator is OURS else [HERE / simulator.script]), settings]
    printed = _quietly(command, limit)
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def _quietly(command: Sequence[str | Path], limit: int | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
            timeout=limit,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise AbsentError(f"did not end within {limit} s") from error
    except OSError as error:
        raise AbsentError(str(error)) from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise AbsentError(lines[-1].strip() if lines else f"exit {done.returncode}")
    return done.stdout


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """Return the rows as a table, each beside kvsim's of the same work."""
    ours = {row["work"]: speed(row) for row in rows if row["simulator"] == OURS.name and "why" not in row}
    lines = [
        "| work | simulator | requests per CPU-second | kvsim is faster by | process, CPU-s | peak, GB "
        "| completed | mean TPOT, ms |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        begin = f"| {row['work']} | {row['simulator']} |"
        if "why" in row:
            lines.append(f"{begin} {row['why']} | | | | | |")
            continue
        times_ours = ours[row["work"]] / speed(row) if row["work"] in ours else float("nan")
        beside = "" if row["simulator"] == OURS.name else f"{times_ours:.1f} ×"
        lines.append(
            f"{begin} {speed(row):,.0f} | {beside} | {row['whole_s']:.2f} | {row['peak_gb']:.2f} "
            f"| {row['completed']:,} | {row['tpot_ms']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def speed(row: dict[str, object]) -> float:
    """Return requests per CPU-second of the replay."""
    return float(str(row["requests"])) / float(str(row["seconds"]))


def arguments() -> argparse.ArgumentParser:
    """Return what the command takes."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.peers", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--venv",
        type=Path,
        default=ENVIRONMENT,
        metavar="DIR",
        help=f"environment of the peers; {ENVIRONMENT}",
    )
    parser.add_argument("--requests", type=times, default=10_000, help="of each trace; 10000")
    parser.add_argument("--repeat", type=times, default=3, help="take the best of so many runs; 3")
    parser.add_argument("--limit", type=times, default=60, metavar="S", help="most seconds of a replay; 60")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    main()
