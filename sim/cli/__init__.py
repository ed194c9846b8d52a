"""The command line: the only place that knows every part of kvsim, and loads each when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import kvsim

COMMANDS = {
    "demo": """Compare the four policies on a generated trace of coding agents; takes seconds.""",
    "run": """Replay a trace through one policy and print what came out.""",
    "compare": """Run several policies on the same trace and memory, and print one table.""",
    "explain": """Say why the requests of a run waited, were preempted, and found no prefix in the cache.

    Runs are deterministic, so the run is done again from what its folder says, and watched. The trace has to be
    where it was, unchanged.""",
    "search": """Find the highest request rate, the smallest pool or the best setting under latency limits.""",
    "report": """Write one HTML file of runs, comparisons and sweeps: the answer, table, memory maps, plots, provenance.

    The file needs nothing else: it opens from disk, prints, and follows light and dark. What a sweep or
    comparison lacks is said in it.""",
    "plot": """Draw one plot of runs, comparisons and sweeps, as PNG and SVG.

    Kinds: comparison, memory-split, memory-over-time, memory-map, batch, waiting, latency, ttft, tpot, itl, e2el,
    throughput-latency, hit-rate, sweep, predicted. `kvsim plot list` says what each shows.""",
    "trace": """Look at request traces, convert, generate and download them.""",
    "capacity": """Print how much KV cache fits: bytes per token, pool size, requests at once.

    Without --model and --gpu it lists the built-in models and GPUs.""",
    "calibrate": """Measure step costs, import them, and look at what they rest on.""",
    "policies": """List the policies, built in and installed, with their parameters and defaults.

    Set a parameter after a colon, as in --policy contiguous:placement=buddy. A policy of your own needs no
    registration: --policy ./mine.py:MyPolicy or --policy my_package.module:MyPolicy.""",
    "verify": """Replay recorded vLLM runs and compare every step and every request, number for number.

    Prints a line a case, then the first difference of each that has one. Exits with 0 when all are equal and
    with 1 when one differs. The formats of manifests and logs are described in sim/README.md.""",
    "validate": """Rerun every published and measured check, and say how far kvsim is from each.

    Rows come from a table of facts, each with its source, and are of three classes: E is exact to the digits that
    were printed, T is in trend within a stated band, physics holds whatever the numbers. Exits with 0 when every E
    row is exact, every physics row holds, and every T row is in its band or documented as missed with the cause; with
    1 otherwise. Rows that need a trace that is not there, or a feature that kvsim lacks, are listed with the
    reason.""",
}
"""What each command's docstring says; here too, so that help loads none of them."""

app = App(
    name="kvsim",
    help="Simulate KV cache scheduling for LLM serving: replay a trace through allocation policies and compare.",
    version=kvsim.__version__,
    suppress_keyboard_interrupt=False,
)
for place, (name, text) in enumerate(COMMANDS.items()):
    app.command(f"kvsim.cli.{name}:{name}", name=name, help=text, sort_key=place)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what the user can mend is one line on stderr and exit code 2."""
    from kvsim.errors import InputError

    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (InputError, CycloptsError) as error:
        _fail(" ".join(str(error).split()), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # Python would complain again when it flushes on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}", 2)


def _fail(message: str, code: int) -> None:
    print(f"kvsim: {message}", file=sys.stderr)
    sys.exit(code)
