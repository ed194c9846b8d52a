"""The command line: the only place that knows every part of kvsim, and loads each when it is used."""

from __future__ import annotations

import sys

from cyclopts import App

import kvsim

app = App(
    name="kvsim",
    help="Simulate KV cache scheduling for LLM serving: replay a trace through allocation policies and compare.",
    version=kvsim.__version__,
)
app.command("kvsim.cli.demo:demo", name="demo")
app.command("kvsim.cli.run:run", name="run")
app.command("kvsim.cli.compare:compare", name="compare")
app.command("kvsim.cli.trace:trace", name="trace")
app.command("kvsim.cli.capacity:capacity", name="capacity")
app.command("kvsim.cli.policies:policies", name="policies")


def main() -> None:
    """Run a command; what the user can mend is one line and exit code 2."""
    from kvsim.errors import InputError

    try:
        app()
    except InputError as error:
        print(f"kvsim: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("kvsim: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
