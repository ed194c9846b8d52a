"""The Prometheus series: every scrape parsed strictly, and held against the run's own figures."""

from __future__ import annotations

import gzip
import math
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from small_runs import prepare, trace
from tight_runs import run_watched, simulations

from kvsim.cli import main
from kvsim.engine import COMPLETED, Simulation
from kvsim.errors import InputError
from kvsim.reports.prometheus import PrometheusSeries
from kvsim.reports.vllm_metrics import families, one_two_five
from kvsim.summary import Columns, summarise

Scrapes = dict[float, dict[str, Any]]
"""By time: the value of each sample by name, with its own label where it has one."""


def written(simulation: Simulation, path: Path, **settings: Any) -> Scrapes:
    """Run with a series and read it back."""
    with PrometheusSeries(path, 'a "model"', **settings) as series:
        series.attach(simulation)
        simulation.run()
        series.finish()
    data = path.read_bytes()
    return read((gzip.decompress(data) if path.suffix == ".gz" else data).decode())


def read(text: str) -> Scrapes:
    """Parse each scrape by itself: the client's parser takes one histogram of a name, at one time."""
    assert text.endswith("# EOF\n")
    heads: dict[str, list[str]] = defaultdict(list)
    parts: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for line in text.splitlines()[:-1]:
        if line.startswith("# "):
            family = line.split()[2]
            heads[family].append(line)
        else:
            assert line.startswith(family)
            parts[line.rsplit(" ", 1)[1]].setdefault(family, [*heads[family]]).append(line)
    assert list(parts) == sorted(parts, key=float)
    return {
        float(at): _values("\n".join([*chain.from_iterable(lines.values()), "# EOF\n"]))
        for at, lines in parts.items()
    }


def _values(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            assert sample.labels["model_name"] == 'a "model"'
            assert sample.labels["engine"] == "0"
            own = [value for name, value in sample.labels.items() if name not in ("model_name", "engine")]
            found["|".join([sample.name, *own])] = sample.value
    return found


def figures(simulation: Simulation) -> dict[str, Any]:
    """Return the summary of a run."""
    return summarise(simulation, Columns.of(simulation))


@settings(max_examples=20)
@given(simulation=simulations())
def test_the_last_scrape_has_the_totals_of_the_run(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scrapes = written(simulation, tmp_path_factory.mktemp("run") / "run.om", interval=4)

    last, summary = scrapes[max(scrapes)], figures(simulation)
    done = sum(status == COMPLETED for status in simulation.outcomes.status)
    assert last["vllm:prompt_tokens_total"] == summary["total_input_tokens"]
    assert last["vllm:generation_tokens_total"] == summary["total_output_tokens"]
    assert last["vllm:prefix_cache_hits_total"] == summary["cached_tokens"]
    assert last["vllm:num_preemptions_total"] == summary["preemptions"]
    assert sum(last[f"vllm:request_success_total|{reason}"] for reason in ("stop", "length")) == done
    assert (
        last["vllm:iteration_tokens_total_sum"]
        == summary["total_input_tokens"] + last["vllm:generation_tokens_total"]
    )
    assert last["vllm:num_requests_running"] == last["vllm:num_requests_waiting"] == 0
    assert last["vllm:kv_cache_usage_perc"] == 0


@settings(max_examples=20)
@given(simulation=simulations())
def test_histograms_have_the_sums_of_the_latencies(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scrapes = written(simulation, tmp_path_factory.mktemp("run") / "run.om", interval=4)

    last, columns = scrapes[max(scrapes)], Columns.of(simulation)
    done = columns.status == COMPLETED
    for name, sample in (
        ("time_to_first_token", columns.ttft_ms[done]),
        ("e2e_request_latency", columns.e2el_ms[done]),
        ("request_queue_time", columns.queue_ms[done]),
        ("request_prefill_time", (columns.first_token - columns.first_scheduled)[done] * 1e3),
        ("request_decode_time", (columns.finish - columns.first_token)[done] * 1e3),
    ):
        assert last[f"vllm:{name}_seconds_count"] == len(sample)
        assert last[f"vllm:{name}_seconds_sum"] * 1e3 == pytest.approx(sample.sum())
    gaps = int((columns.output[done] - 1).sum())
    assert last["vllm:inter_token_latency_seconds_count"] == gaps
    mean = figures(simulation)["mean_itl_ms"] or 0
    assert last["vllm:inter_token_latency_seconds_sum"] * 1e3 == pytest.approx(mean * gaps)


@settings(max_examples=20)
@given(simulation=simulations())
def test_gauges_are_those_of_the_step_that_runs_then(
    simulation: Simulation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with PrometheusSeries(tmp_path_factory.mktemp("run") / "run.om", 'a "model"', interval=1.75) as series:
        series.attach(simulation)
        steps = run_watched(simulation)
        series.finish()
    scrapes = read(series._file.target.read_text())

    for step in steps:
        for at in scrapes:
            if step.planned.start <= at < step.planned.end - 0.001:
                assert scrapes[at]["vllm:num_requests_running"] == step.running
                assert scrapes[at]["vllm:num_requests_waiting"] == step.waiting
                shares = [scrapes[at][f"kvsim:kv_cache_share|{use}"] for use in step.slots._fields]
                assert shares == [amount / sum(step.slots) for amount in step.slots]


def test_scrapes_by_hand(tmp_path: Path) -> None:
    # Steps of a second: three tokens at 1, 2 and 3 s; then nothing until the next comes at 10 s.
    scrapes = written(prepare(trace((0, 5, 3), (10, 5, 1))), tmp_path / "run.om", interval=2)

    assert list(scrapes) == [0, 2, 4, 6, 8, 10, 12]
    tokens = [scrape["vllm:generation_tokens_total"] for scrape in scrapes.values()]
    assert tokens == [0, 2, 3, 3, 3, 3, 4]
    assert [scrape["vllm:num_requests_running"] for scrape in scrapes.values()] == [1, 1, 0, 0, 0, 1, 0]
    assert [scrape["vllm:kv_cache_usage_perc"] > 0 for scrape in scrapes.values()] == [1, 1, 0, 0, 0, 1, 0]
    at_last = scrapes[12]
    assert at_last["vllm:time_to_first_token_seconds_bucket|0.75"] == 0
    assert at_last["vllm:time_to_first_token_seconds_bucket|1.0"] == 2
    assert at_last["vllm:request_generation_tokens_bucket|2.0"] == 1
    assert at_last["vllm:request_success_total|stop"] == 2


def test_an_answer_that_is_cut_says_length(tmp_path: Path) -> None:
    scrapes = written(prepare(trace((0, 60, 30))), tmp_path / "run.om")

    assert scrapes[max(scrapes)]["vllm:request_success_total|length"] == 1


def test_times_are_unix_times_of_the_epoch_given(tmp_path: Path) -> None:
    scrapes = written(prepare(trace((3.5, 5, 3))), tmp_path / "run.om", interval=2, epoch=1.7e9)

    assert list(scrapes) == [1700000003.5, 1700000005.5, 1700000007.5]


def test_counters_never_fall_and_every_series_is_in_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "run.om"
    written(prepare(trace(*[(i / 2, 9, 5) for i in range(20)]), blocks=9), path, interval=5)

    series: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for family in parse_plain(path.read_text()):
        for sample in family.samples:
            assert sample.timestamp is not None
            key = sample.name, str(sorted(sample.labels.items()))
            series[key].append((float(sample.timestamp), sample.value))
    assert len({len(points) for points in series.values()}) == 1
    for (name, _), points in series.items():
        assert [at for at, _ in points] == sorted({at for at, _ in points})
        if name.endswith(("_total", "_bucket", "_sum", "_count")):
            assert [value for _, value in points] == sorted(value for _, value in points)


def test_bucket_edges_are_vllms() -> None:
    edges = {family.name: family.edges for family in families(131072)}

    # vllm/v1/metrics/loggers.py.
    assert edges["vllm:time_to_first_token_seconds"][:4] == (0.001, 0.005, 0.01, 0.02)
    assert edges["vllm:time_to_first_token_seconds"][-3:] == (160, 640, 2560)
    assert edges["vllm:inter_token_latency_seconds"][-1] == 80
    assert edges["vllm:e2e_request_latency_seconds"][-2:] == (1920, 7680)
    assert edges["vllm:iteration_tokens_total"][-1] == 16384
    assert edges["vllm:request_prompt_tokens"] == one_two_five(131072)
    assert one_two_five(131072)[-3:] == (20000, 50000, 100000)
    assert all(list(each) == sorted(set(each)) for each in edges.values())


@pytest.mark.parametrize("name", ["run.om", "run.om.gz"])
def test_the_same_run_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        written(prepare(trace((0, 5, 3))), tmp_path / folder / name)

    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("interval", [0.0, -1.0, 0.0001, math.inf, math.nan])
def test_an_interval_that_cannot_be_is_said(interval: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics interval must be at least 0\.001 seconds, got"):
        PrometheusSeries(tmp_path / "run.om", "m", interval=interval)
    assert not list(tmp_path.iterdir())


def test_an_empty_run_has_one_scrape(tmp_path: Path) -> None:
    scrapes = written(prepare(trace()), tmp_path / "run.om")

    assert list(scrapes) == [0]
    assert scrapes[0]["vllm:num_requests_running"] == 0


def test_the_command_writes_the_metrics_of_its_run(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"arrival_s": 0, "prompt_len": 40, "output_len": 5}\n' * 3)
    flags = ["--cost", "linear:0.01,1e-5,0", "--metrics-interval", "0.02", "--metrics-epoch", "100"]
    main(["run", str(rows), *flags, "--metrics-out", str(tmp_path / "run.om")])

    text = (tmp_path / "run.om").read_text()
    assert 'vllm:prompt_tokens_total{engine="0",model_name="llama-3.1-8b"} 120.0 100.02' in text.splitlines()
