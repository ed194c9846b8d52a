"""The answer of a search in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from kvsim.backlog import SETTLED
from kvsim.search_knobs import RATE, SMALLEST
from kvsim.slo import COMPLETE, Bound, strain, words

if TYPE_CHECKING:
    from kvsim.search_estimate import Estimate
    from kvsim.search_point import Point
    from kvsim.search_result import Search


def sentence(search: Search) -> str:
    """Say what was found, how far the seeds agree, and what the cost's error makes of it."""
    plan = search.plan
    config = plan.setup.config
    gpus = f"{config.tensor_parallel_size} × " if config.tensor_parallel_size > 1 else ""
    who = f"{plan.setup.policy}, {config.model} on {gpus}{config.gpu}, {plan.setup.traffic.name}"
    if not search.found:
        return f"{who}: {_nothing(search)}."
    said = _edge(search) if search.edges else _best(search)
    return f"{who}: {said}; {_error(search)}."


def notes(search: Search) -> list[str]:
    """Say what makes the answer less than it seems."""
    plan, found = search.plan, []
    if any(edge.is_open for edge in search.edges) and search.found:
        found.append("the limits hold at the last value tried, so the true edge may lie beyond it")
    if len(plan.seeds) == 1:
        found.append("one draw only: how much chance there is in the answer is not known")
    points = [edge.point for edge in search.edges if edge.point is not None]
    points += search.scores[search.best].points if search.best is not None else ()
    if any(bound.key == "queue_growth" for bound in plan.bounds) and points:
        spans = [_stays(search, point) for point in points]
        if min(spans) < SETTLED:
            found.append(
                f"arrivals span only {min(spans):.1f} times what a request, or a session, stays on average, too "
                "little for a queue to settle: the answer is likely too low; take more requests (--requests, --repeat)"
            )
    return found


def number(value: float) -> str:
    """Write a value with three significant digits, or as the whole number or the percentage that it is."""
    if 0 < abs(value) < 1 and abs(100 * value - round(100 * value)) < 1e-9:
        return f"{value:.2f}"
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if abs(value) < 100 else f"{value:.1f}"


def _edge(search: Search) -> str:
    plan, estimate = search.plan, search.estimate
    assert estimate is not None
    assert search.value is not None
    limits = f"with {words(plan.bounds)}"
    if plan.knob == RATE:
        least = "at least " if all(edge.is_open for edge in search.edges) else "up to "
        sure = _confidence(estimate, number, after=f"; every seed up to {number(min(estimate.values))}")
        return f"{least}{number(search.value)} {plan.unit} {limits}{sure}"
    sure = _confidence(estimate, number, before="enough in every seed; ", mean=f" {number(estimate.mean)}")
    return f"{number(search.value)} {plan.unit} are enough {limits}{sure}"


def _best(search: Search) -> str:
    plan, estimate, best = search.plan, search.estimate, search.best
    assert estimate is not None
    assert best is not None
    what = "rate" if plan.objective is None else plan.objective.label
    text = f"{plan.knob} {best:,} is best: {what} {_score(search, estimate.mean)} with {words(plan.bounds)}"
    sure = _confidence(estimate, number if plan.objective is None else plan.objective.text)
    return text + sure + _plateau(search) + _gain(search)


def _confidence(
    estimate: Estimate, write: Callable[[float], str], *, before: str = "", mean: str = "", after: str = ""
) -> str:
    """Say how far the seeds agree, in brackets; nothing for a single one."""
    if estimate.low is None or estimate.high is None:
        return ""
    count = len(estimate.values)
    if min(estimate.values) == max(estimate.values):
        return f" (the same in {count} seeds)"
    between = f"95 % confidence {write(estimate.low)} to {write(estimate.high)}"
    return f" ({before}mean of {count} seeds{mean}, {between}{after})"


def _score(search: Search, value: float) -> str:
    objective = search.plan.objective
    return f"{number(value)} {search.plan.rate_unit}" if objective is None else objective.text(value)


def _plateau(search: Search) -> str:
    """Name the stretch of values around the best that do as well."""
    best, means = search.best, {value: score.mean for value, score in search.scores.items()}
    assert best is not None
    top, values = means[best], sorted(means)
    assert top is not None

    def reach(order: Iterable[int]) -> int:
        last = best
        for value in order:
            mean = means[value]
            if mean is None or abs(mean - top) > search.plan.precision * abs(top):
                break
            last = value
        return last

    place = values.index(best)
    first, last = reach(reversed(values[:place])), reach(values[place + 1 :])
    return "" if first == last else f", {first:,} to {last:,} do as well"


def _gain(search: Search) -> str:
    """Compare with the value that the settings had, draw by draw."""
    from kvsim.search_estimate import Estimate

    own, best = search.own, search.best
    if own is None or best is None or own == best or own not in search.scores:
        return ""
    pairs = zip(search.scores[best].values, search.scores[own].values, strict=False)
    ratios = [mine / other - 1 for mine, other in pairs if mine is not None and other]
    if len(ratios) < len(search.plan.seeds):
        return f", where {own:,} does not keep to them"
    gain = Estimate.of(ratios)
    spread = "" if gain.low is None or gain.high is None else f" ({gain.low:+.1%} to {gain.high:+.1%})"
    return f", {gain.mean:+.1%} against {own:,}{spread}"


def _error(search: Search) -> str:
    """Say what the cost's error makes of the answer."""
    plan, band = search.plan, search.band
    if band is None:
        why = _kind(plan.cost_label)
        return f"no error of the step cost is known ({why}), --cost-error SHARE shows what one would do"
    whose = "the cost profile's own error" if plan.is_error_stated else "an error of the step cost"
    ends = [None if end is None else _end(search, end) for end in (band.slow, band.fast)]
    texts = [end or "nothing" for end in ends]
    moved = [value for value in band.best if value not in (None, search.best)]
    other = f", and {' or '.join(f'{value:,}' for value in moved if value)} the best" if moved else ""
    return f"{whose} of {band.error:.1%} makes it {texts[0]} to {texts[1]}{other}"


def _end(search: Search, estimate: Estimate) -> str:
    if search.scores:
        return _score(search, estimate.mean)
    return number(max(estimate.values) if search.plan.knob in SMALLEST else estimate.mean)


def _kind(label: str) -> str:
    return (
        "the cost is assumed"
        if label.endswith("assumed)") or "(assumed" in label
        else "the profile states none"
    )


def _nothing(search: Search) -> str:
    """Say that no value meets the limits, which came closest, and what broke there."""
    plan = search.plan
    tried = sorted({search.value_of(point) for point in search.points})
    span = f"from {number(tried[0])} to {number(tried[-1])} {plan.unit}" if tried else ""
    bad = [edge.seed for edge in search.edges if edge.value is None]
    where = "" if not bad or len(bad) == len(search.edges) else f" in {len(bad)} of {len(search.edges)} seeds"
    said = f"no {'rate' if plan.knob == RATE else plan.knob} {span} keeps {words(plan.bounds)}{where}"
    points = [point for point in search.points if not bad or point.seed in bad]
    if not points:
        return (
            f"{said}: {next((o.reason for o in search.outcomes.values() if o.reason), 'nothing could run')}"
        )
    closest = min(points, key=lambda point: strain(plan.bounds, search.outcomes[point].figures))
    value = number(search.value_of(closest))
    return f"{said}; the closest, {value}, {_broke(search, closest, plan.bounds)}"


def _broke(search: Search, point: Point, bounds: Sequence[Bound]) -> str:
    outcome = search.outcomes[point]
    if not outcome.figures:
        return f"cannot run: {outcome.reason}"
    worst = max(bounds, key=lambda bound: bound.strain(outcome.figures))
    why = f" ({outcome.reason})" if worst.key == COMPLETE.key and outcome.reason else ""
    return f"broke {worst.words()}: {worst.found(outcome.figures)}{why}"


def _stays(search: Search, point: Point) -> float:
    """Return the time of arrivals over the mean stay of a request or session."""
    figures = search.outcomes[point].figures
    stay = float(figures.get("mean_stay") or 0)
    return float(figures.get("arrival_span") or 0) / stay if stay else float("inf")
