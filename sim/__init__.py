"""Discrete-event simulation of KV cache scheduling for LLM serving.

    from kvsim.traces import generate
    comparison = kvsim.compare(generate("sharegpt", 1000, rate=8.0), gpu="a100-40-sxm")
    comparison.summary        # a DataFrame, one row a policy

Names below are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if __name__ != "kvsim":
    raise ImportError(f"this package is kvsim; imported as {__name__!r} it would be a second copy")

if TYPE_CHECKING:
    from kvsim.band import Band, simulate_band
    from kvsim.comparison import Comparison, compare
    from kvsim.config import RunConfig, read_config
    from kvsim.errors import InputError
    from kvsim.experiment import Experiment, sweep
    from kvsim.experiment_file import read_experiment
    from kvsim.policy import Lease, Match, Policy, Pool, Span, Usage
    from kvsim.registry import register
    from kvsim.request import Sequence, Workload
    from kvsim.result import Result, load_result
    from kvsim.run import simulate

__version__ = "0.1.0"

__all__ = [
    "Band",
    "Comparison",
    "Experiment",
    "InputError",
    "Lease",
    "Match",
    "Policy",
    "Pool",
    "Result",
    "RunConfig",
    "Sequence",
    "Span",
    "Usage",
    "Workload",
    "compare",
    "load_result",
    "read_config",
    "read_experiment",
    "register",
    "simulate",
    "simulate_band",
    "sweep",
]

_HOME = {
    "Band": "band",
    "simulate_band": "band",
    "compare": "comparison",
    "Comparison": "comparison",
    "RunConfig": "config",
    "read_config": "config",
    "Experiment": "experiment",
    "sweep": "experiment",
    "read_experiment": "experiment_file",
    "InputError": "errors",
    "Lease": "policy",
    "Match": "policy",
    "Policy": "policy",
    "Pool": "policy",
    "Span": "policy",
    "Usage": "policy",
    "register": "registry",
    "Sequence": "request",
    "Workload": "request",
    "Result": "result",
    "load_result": "result",
    "simulate": "run",
}


def __getattr__(name: str) -> object:
    """Load a public name's module at first use, so that `import kvsim` is instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'kvsim' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kvsim.{_HOME[name]}"), name)
