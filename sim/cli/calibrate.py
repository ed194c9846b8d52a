"""`kvsim calibrate`: step costs that were measured, what is in them, and how far they are off."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from kvsim.calibration.check import Verdict

calibrate = App(name="calibrate", help="Measure step costs, import them, and look at what they rest on.")
calibrate.command(
    "kvsim.cli.calibrate_run:run_calibration",
    name="run",
    help="Time kernels on this GPU and write a profile.",
)
calibrate.command(
    "kvsim.cli.calibrate_import:import_profile",
    name="import",
    help="Fit a profile to published kernel tables and write it.",
)
calibrate.command(
    "kvsim.cli.calibrate_kv_error:kv_error",
    name="kv-error",
    help="""Measure how far quantised KV throws attention's output off.

    On random and on outlier-heavy inputs. The error is ‖output − exact‖ / ‖exact‖, computed on the CPU in float64 from
    K and V as they are read back. The inputs are made up: this says nothing about the quality of a model's answers.""",
)
calibrate.command(
    "kvsim.cli.calibrate_fidelity:run_fidelity",
    name="fidelity",
    help="""Execute simulated steps on this GPU and compare with a profile.

    A small simulation runs in every memory layout. Steps of each kind are taken from it and executed with real layers:
    random weights in the model's shapes, over a KV pool with the block tables that the policy dealt out. Nothing is
    timed before the numbers agree with a float64 reference. Ctrl-C keeps what was measured. Exits with 3 without the
    device, with 4 when the layers compute something else, with 5 when predictions are further off than the gates.""",
)

Json = Annotated[bool, Parameter(negative=(), help="Print one JSON object instead of text.")]


@calibrate.command
def show(
    profile: Annotated[
        str | None, Parameter(help="File, or name of a profile that comes with kvsim.")
    ] = None,
    /,
    *,
    json: Json = False,
) -> None:
    """Print what a profile was made from: points, times and errors by kernel; without one, list those shipped."""
    from kvsim.calibration.profile_file import read_profile, shipped_profiles
    from kvsim.cli.calibrate_text import list_text, profile_record, profile_text
    from kvsim.cli.print_json import print_json

    if profile is None:
        known = {name: read_profile(path) for name, path in shipped_profiles().items()}
        if json:
            print_json({"profiles": {name: profile_record(each) for name, each in known.items()}})
        else:
            print(list_text(known))
        return
    found = read_profile(_path(profile))
    if json:
        print_json(profile_record(found))
    else:
        print(profile_text(found))


@calibrate.command
def check(
    *profiles: Annotated[str, Parameter(help="Files, or names of profiles that come with kvsim.")],
    shipped: Annotated[bool, Parameter(negative=(), help="Check all that come with kvsim.")] = False,
    decode_gate: Annotated[float, Parameter(help="Largest mean error of decode steps, in percent.")] = 5.0,
    prefill_gate: Annotated[float, Parameter(help="Largest mean error of prefill steps, in percent.")] = 6.0,
    mixed_gate: Annotated[float, Parameter(help="Largest mean error of mixed steps, in percent.")] = 6.0,
    json: Json = False,
) -> None:
    """Fit profiles again, state their errors on held-out points, and compare those with gates.

    Profiles without points show the errors that they were written with. Exits with 1 when one does not pass.
    """
    from kvsim.calibration.check import check_profile_file
    from kvsim.calibration.profile_file import shipped_profiles
    from kvsim.cli.calibrate_text import verdict_record, verdict_text
    from kvsim.cli.print_json import print_json
    from kvsim.errors import InputError

    percents = {"step decode": decode_gate, "step prefill": prefill_gate, "step mixed": mixed_gate}
    gates = {name: percent / 100 for name, percent in percents.items()}
    paths = (shipped_profiles() if shipped else {}) | {name: _path(name) for name in profiles}
    if not paths:
        raise InputError("name a profile to check, or give --shipped")
    verdicts: list[Verdict] = []
    for name, path in paths.items():
        verdicts.append(check_profile_file(path, name, gates))
        if not json:
            print(verdict_text(verdicts[-1]), flush=True)
    failed = sum(bool(verdict.failures) for verdict in verdicts)
    if json:
        print_json({"profiles": [verdict_record(verdict) for verdict in verdicts], "failed": failed})
    if failed:
        sys.exit(1)


def _path(name: str) -> Path:
    """Return the file of a shipped profile's name, or the path itself."""
    from kvsim.calibration.profile_file import shipped_profiles

    return shipped_profiles().get(name, Path(name))
