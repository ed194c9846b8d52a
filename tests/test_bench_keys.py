"""Summary keys against the result file of `vllm bench serve`."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from tight_runs import Case, cases, run_watched, simulation_of, simulations

from kvsim import simulate
from kvsim.engine import COMPLETED, Simulation
from kvsim.summary import Columns, summarise
from kvsim.traces.generate import generate

# vllm/benchmarks/serve.py, `result` and `process_one_metric`: single figures, without those of audio.
BENCH = [
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    *(
        f"{figure}_{name}_ms"
        for figure in ("mean", "median", "std", "p99")
        for name in ("ttft", "tpot", "itl", "e2el")
    ),
]


def test_a_summary_has_the_keys_of_vllm_bench_serve() -> None:
    work = generate("alpaca", 20, rate=5.0, seed=1)

    summary = simulate(work, measure_capacity=False, goodput="ttft:200,tpot:50").summary

    assert set(BENCH) <= set(summary)
    assert all(summary[key] is not None for key in BENCH)


@settings(max_examples=60)
@given(simulation=simulations())
def test_most_at_once_counts_the_sent_and_not_yet_answered(simulation: Simulation) -> None:
    simulation.run()

    columns = Columns.of(simulation)
    done = columns.status == COMPLETED
    lives = list(zip(columns.arrival[done], columns.finish[done], strict=True))
    most = max((sum(start <= at < end for start, end in lives) for at, _ in lives), default=0)
    assert summarise(simulation, columns)["max_concurrent_requests"] == most


@settings(max_examples=150)
@given(case=cases())
def test_most_tokens_in_a_second_are_those_of_the_steps_that_end_in_it(case: Case) -> None:
    watched, unwatched = simulation_of(case), simulation_of(case)
    start = watched.replica.ledger.start
    tokens = Counter[int]()

    for record in run_watched(watched):
        step = record.planned
        tokens[int(step.end - start)] += step.work.decodes + len(step.sampled)

    unwatched.run()
    most = max(tokens.values(), default=0)
    for simulation in (watched, unwatched):
        assert summarise(simulation, Columns.of(simulation))["max_output_tokens_per_s"] == most
