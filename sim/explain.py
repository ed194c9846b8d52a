"""Why a run went as it did: what requests waited for, what preemptions cost, why prefixes were missed.

Nothing of this is recorded by an ordinary run. Runs are deterministic, so `explain` does the run again and watches.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kvsim.config import RunConfig
from kvsim.engine import Simulation
from kvsim.explain_preemptions import Preemption, PreemptionWatch
from kvsim.explain_prefix import Lookup, PrefixWatch
from kvsim.explain_waits import Wait, WaitWatch
from kvsim.policy import Policy
from kvsim.run import simulate
from kvsim.watchers import add_watch

if TYPE_CHECKING:
    import pandas as pd

    from kvsim.replica import StepRecord
    from kvsim.request import Workload
    from kvsim.result import Result


class Explanation:
    """What happened to the requests of one run, and why.

    `waits`, `preemptions` and `lookups` are lists of records; the properties of the same name with `_frame` are
    DataFrames (columns in `reports/README.md`).
    """

    def __init__(
        self, result: Result, waits: list[Wait], preemptions: list[Preemption], lookups: list[Lookup] | None
    ) -> None:
        """Take what was watched; `lookups` is None for a policy that shares nothing."""
        self.result = result
        self.waits = waits
        self.preemptions = preemptions
        self.lookups = lookups

    @cached_property
    def waits_frame(self) -> pd.DataFrame:
        """One row a stretch of waiting with one reason."""
        import pandas as pd

        names = {"start": "start_s", "end": "end_s"}
        return pd.DataFrame(self.waits, columns=list(Wait._fields)).rename(columns=names)

    @cached_property
    def preemptions_frame(self) -> pd.DataFrame:
        """One row a preemption, in order of time."""
        import pandas as pd

        rows = [asdict(preemption) for preemption in self.preemptions]
        frame = pd.DataFrame(rows, columns=list(Preemption.__dataclass_fields__))
        frame[["back", "caught_up"]] = frame[["back", "caught_up"]].astype(float)
        waited, recomputed = frame["back"] - frame["time"], frame["caught_up"] - frame["back"]
        frame = frame.assign(waited_ms=waited * 1e3, recompute_ms=recomputed * 1e3)
        frame["step_ms"] = frame.pop("step_seconds") * 1e3
        return frame.rename(columns={"time": "time_s", "back": "back_s", "caught_up": "caught_up_s"})

    @cached_property
    def lookups_frame(self) -> pd.DataFrame:
        """One row a prompt that was looked up in the cache, in order of admission; empty without a cache."""
        import pandas as pd

        frame = pd.DataFrame(self.lookups or [], columns=list(Lookup._fields))
        return frame.rename(columns={name: f"{name}_tokens" for name in Lookup._fields[1:]})


class Watch:
    """Watch a simulation for `explain`; attach it before the simulation runs."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self._prefix: PrefixWatch | None = None

    def attach(self, simulation: Simulation) -> None:
        """Follow every step."""
        policy = simulation.replica.policy
        self._waits = WaitWatch(simulation)
        self._preemptions = PreemptionWatch(simulation)
        if shares(policy):
            self._prefix = PrefixWatch(simulation)
        add_watch(simulation.replica, self._step)

    def finish(self, result: Result) -> Explanation:
        """Return what was seen, once the simulation has run."""
        self._waits.finish()
        lookups = None if self._prefix is None else self._prefix.lookups
        return Explanation(result, self._waits.waits, self._preemptions.preemptions, lookups)

    def _step(self, record: StepRecord) -> None:
        self._waits.step(record)
        self._preemptions.step(record)
        if self._prefix is not None:
            self._prefix.step(record)


def explain(
    workload: Workload,
    policy: str | Policy = "paged",
    config: RunConfig | None = None,
    **changes: Any,  # Any: RunConfig fields by name
) -> Explanation:
    """Simulate as `kvsim.simulate` does, and say why requests waited, were preempted and found no prefix."""
    watch = Watch()
    result = simulate(workload, policy, config, attach=watch.attach, measure_capacity=False, **changes)
    return watch.finish(result)


def shares(policy: Policy) -> bool:
    """Tell whether a policy that has been reset keeps content findable."""
    caches = getattr(policy, "caches", None)
    return policy.shares_prefixes or bool(callable(caches) and caches())
