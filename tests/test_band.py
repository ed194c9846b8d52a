"""The band of a run: its figures at step times lower and higher by the cost model's error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import prepare, trace

import kvsim
from kvsim.band import Band, Spread, known_error, simulate_band
from kvsim.calibration.cost_choice import profile_cost
from kvsim.cli import main
from kvsim.cli.run_band import BandOptions
from kvsim.config import RunConfig
from kvsim.cost import LinearCost, Step
from kvsim.cost_error import ScaledCost, prepare_scaled, stated_error
from kvsim.errors import InputError
from kvsim.result import load_result
from kvsim.run import prepare_policy, prepare_pool
from kvsim.traces.generate import generate

LINEAR: dict[str, Any] = {"cost": "linear:0.01,1e-5,1e-7"}
CALIBRATED = RunConfig(gpu="h100-sxm", cost="calibrated", max_model_len=8192)


def alone(outputs: int = 11) -> Any:
    return trace((0.0, 100, outputs))


def test_latencies_of_a_request_that_is_alone_move_as_its_steps() -> None:
    band = simulate_band(alone(), error=0.1, **LINEAR)

    for name in ("p50_ttft_ms", "mean_tpot_ms"):
        fast, value, slow = band.figures[name]
        assert fast == pytest.approx(0.9 * value)
        assert slow == pytest.approx(1.1 * value)
        assert band.figures[name].share == pytest.approx(0.1)
    assert band.figures["request_throughput"].fast == pytest.approx(
        band.figures["request_throughput"].value / 0.9
    )


def test_a_queue_makes_the_band_wider_than_the_error() -> None:
    # One request at a time and near capacity: a wait is what is left of the load, and the error acts on both.
    work = generate("alpaca", 300, rate=1.6, seed=0)
    band = simulate_band(work, error=0.05, max_num_seqs=1, **LINEAR)

    assert band.figures["mean_ttft_ms"].share > 0.1
    assert band.figures["mean_tpot_ms"].share == pytest.approx(0.05, abs=1e-6)


def test_no_error_leaves_everything_as_it_is() -> None:
    band = simulate_band(generate("alpaca", 50, rate=5.0, seed=0), error=0.0, **LINEAR)

    assert {spread.share for spread in band.figures.values()} == {0.0}


def test_a_figure_that_a_run_does_not_have_has_no_band() -> None:
    assert "mean_tpot_ms" not in simulate_band(alone(outputs=1), error=0.1, **LINEAR).figures


def test_a_profile_states_its_own_error_and_a_datasheet_none() -> None:
    policy = prepare_policy("paged", CALIBRATED)
    policy.reset(prepare_pool(None, policy, CALIBRATED))
    errors = profile_cost(CALIBRATED, policy).profile.errors

    own = max(error.mean for name, error in errors.items() if name.startswith("step "))
    assert known_error("paged", CALIBRATED) == own
    assert simulate_band(alone(), config=CALIBRATED).error == own
    assert known_error("paged", RunConfig()) is None
    assert stated_error(LinearCost(1.0, 0.0, 0.0)) is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, r"cost 'roofline' states no error of its own; give one, as in --cost-error 0.1"),
        (1.0, r"--cost-error must be a share from 0 to below 1, as in 0.1 for ± 10 %, got 1.0"),
        (-0.1, r"--cost-error must be a share"),
        (float("nan"), r"--cost-error must be a share"),
    ],
)
def test_a_band_needs_an_error_that_can_be(error: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate_band(alone(), error=error)


def test_it_is_said_as_plus_minus() -> None:
    spread = Spread(90.0, 100.0, 112.0)
    band = Band(error=0.014, is_stated=True, figures={"p99_ttft_ms": spread, "mean_ttft_ms": spread})

    assert band.record()["words"] == "step times ± 1.4 % (the cost profile's own error): TTFT p99 ± 12.0 %"
    assert band.record()["figures"] == {
        name: {"fast": 90.0, "value": 100.0, "slow": 112.0, "plus_minus": 0.12} for name in band.figures
    }


def test_the_public_name_is_the_function() -> None:
    assert kvsim.simulate_band is simulate_band


@settings(max_examples=25)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 30), st.integers(1, 25)), min_size=1, max_size=12
    ),
    blocks=st.integers(14, 40),
    factor=st.floats(0.5, 2),
)
def test_scaled_steps_taken_in_bulk_cost_what_they_cost_one_by_one(
    rows: list[tuple[int, int, int]], blocks: int, factor: float
) -> None:
    work = trace(*sorted((float(at), prompt, output) for at, prompt, output in rows))
    cost = ScaledCost(LinearCost(0.7, 0.013, 0.0017), factor)
    bulk, watched = (prepare(work, blocks=blocks, cost=cost) for _ in range(2))
    watched.replica.watch = lambda step: None

    bulk.run()
    watched.run()

    assert list(bulk.outcomes.finish) == list(watched.outcomes.finish)


def test_a_scaled_profile_counts_steps_and_keeps_its_line_and_its_discount() -> None:
    plain, slow = (prepare_scaled(alone(200), "paged", CALIBRATED, factor) for factor in (1.0, 1.25))
    plain.run()
    slow.run()

    assert isinstance(slow.replica.cost, ScaledCost)
    assert slow.replica.cost.hull_share == getattr(plain.replica.cost, "hull_share", None)
    assert slow.replica.cost.label.startswith("1.25 × profile:h100-sxm")
    assert slow.clock == pytest.approx(1.25 * plain.clock)


def test_a_model_without_a_line_has_none_when_scaled() -> None:
    class Plain:
        label = "plain (assumed)"

        def seconds(self, step: Step) -> float:
            return float(step.tokens)

    scaled = ScaledCost(Plain(), 3.0)

    assert scaled.decode_line(4, 100) is None
    assert scaled.hull_share is None
    assert not scaled.discounts_sharing
    assert scaled.seconds(Step(4, 100, 4, (100,))) == 12.0


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    made = [{"arrival_s": i / 4, "prompt_len": 40 + i, "output_len": 5} for i in range(12)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in made))
    return path


def test_a_run_on_a_profile_prints_its_band_and_keeps_it(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", str(rows), "--gpu", "h100-sxm", "--cost", "calibrated", "-o", str(tmp_path / "out")])

    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("band: step times ± 1.4 % (the cost profile's own error): requests/s ± ")
    assert "TTFT p99 ± " in last
    assert "TPOT p50 ± " in last
    kept = load_result(tmp_path / "out").config["cost_band"]
    assert kept["is_stated"]
    assert set(kept["figures"]) >= {"output_throughput", "mean_ttft_ms", "mean_tpot_ms"}


def test_an_assumed_cost_has_a_band_only_for_a_given_error(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", str(rows)])
    main(["run", str(rows), "--cost-error", "0.2"])
    main(["run", str(rows), "--no-band"])

    unknown, given, none = (part for part in capsys.readouterr().out.split("kvsim 0.1.0\n")[1:])
    assert unknown.startswith("band: unknown, since nobody measured this step cost")
    assert given.startswith("band: step times ± 20.0 % (as given): requests/s ± ")
    assert "band" not in none


def test_a_comparison_has_a_band_a_policy(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--gpu", "h100-sxm", "--cost", "calibrated", "--policies", "paged,contiguous"]
    main(["compare", str(rows), *flags, "-o", str(tmp_path / "out")])
    main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "r.html")])
    main(["compare", str(rows), *flags, "--json"])

    printed = capsys.readouterr().out
    assert "\npaged, band: step times ± 1.4 % (the cost profile's own error): requests/s ± " in printed
    assert "\ncontiguous, band: step times ± 1.4 %" in printed
    assert '"cost_band": {' in printed
    assert "step times ± 1.4 %" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_comparison_at_an_assumed_cost_says_nothing_of_a_band(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", str(rows), "--policies", "paged,contiguous"])

    assert "band" not in capsys.readouterr().out


def test_an_experiment_takes_no_band(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.toml").write_text("")

    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path / "e.toml"), "--cost-error", "0.1"])

    assert "--cost-error goes with a trace" in capsys.readouterr().err


def test_json_has_the_band_in_its_configuration(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", str(rows), "--cost-error", "0.1", "--json"])

    assert json.loads(capsys.readouterr().out)["config"]["cost_band"]["cost_error"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--band"], "--band: cost 'roofline' states no error of its own; --cost-error gives one"),
        (["--cost-error", "1.5"], "--cost-error must be a share from 0 to below 1"),
        (["--cost-error", "0.1", "--no-band"], "--cost-error goes with a band, not with --no-band"),
    ],
)
def test_a_band_that_cannot_be_is_refused_before_the_run(
    arguments: list[str], message: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", str(rows), *arguments])

    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_long_traces_get_their_band_on_demand_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvsim.cli.run_band.MOST_REQUESTS", 5)
    work = generate("alpaca", 10, rate=5.0, seed=0)
    result = kvsim.simulate(work, config=CALIBRATED, measure_capacity=False)

    assert (
        BandOptions().add(result, work, "paged", CALIBRATED).startswith("band: not computed for more than 5")
    )
    assert "cost_band" not in result.config
    assert (
        BandOptions(band=True).add(result, work, "paged", CALIBRATED).startswith("band: step times ± 1.4 %")
    )
