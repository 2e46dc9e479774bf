"""What is told beside a recommendation."""

from dataclasses import replace
from pathlib import Path

import pytest

from slotune.tuner.finalists.longer_load import TIMES, LongerLoad
from slotune.tuner.finalists.other_orders import OtherOrders
from slotune.tuner.pages.recommendation_page import keep_line
from slotune.tuner.recommendation import Recommendation, best_yaml_of, luck_lines
from slotune.tuner.study.study import read_asked
from slotune.tuner.tune import tune


@pytest.fixture
def found(study: Path) -> Recommendation:
    return tune(read_asked(study), study, jobs=1)


def test_a_target_that_few_orders_meet_is_told(found):
    metrics = {**found.best.metrics, "p99_ttft_ms": 1.0, "p99_itl_ms": 1.0}
    best = replace(found.best, metrics=metrics)
    runs = [metrics | {"p99_itl_ms": 1e6 * (order >= 3)} for order in range(6)]
    few = replace(found, best=best, orders={best.key: OtherOrders(runs)})
    (line,) = luck_lines(few)
    assert line.startswith("p99:itl:150 is met only in 3") and "is met only in 3 of 6 other orders" in line
    assert luck_lines(replace(few, orders={best.key: OtherOrders(runs[:5])})) == []
    assert luck_lines(replace(few, orders={})) == []
    assert "is met only in 3 of 6" in best_yaml_of(few)
    assert line.endswith("may miss it 3 times in 6; lower --rate or raise the limit to be sure of it")
    (never,) = luck_lines(replace(few, orders={best.key: OtherOrders(runs[3:])}))
    assert never.startswith("p99:itl:150 is met in none of 3 other orders")


def test_goodput_that_few_orders_reach_is_told_too(found):
    objective = replace(found.task.objective, goodput={"ttft": 300.0})
    good = {**found.best.metrics, "request_goodput": found.best.metrics["request_throughput"]}
    best = replace(found.best, metrics=good)
    runs = [good | {"request_goodput": good["request_goodput"] * (0.5 if order else 1)} for order in range(6)]
    few = replace(found, task=replace(found.task, objective=objective), best=best, orders={best.key: OtherOrders(runs)})
    assert luck_lines(few)[0].startswith("99% of requests good is met only in 1 of 6 other orders")


def test_a_default_that_does_not_last_is_no_alternative(found):
    """Its row says so, and no line may say that it meets the targets too."""
    fine = {**found.default.metrics, "p99_itl_ms": 1.0, "p99_ttft_ms": 1.0}
    default, other = replace(found.default, metrics=fine), {"max_num_batched_tokens": 64}
    here = replace(found, default=default, best=replace(found.best, settings=found.task.asked.engine | other))
    told = {}
    for name, factor in (("lasts", 1.0), ("fails", 1e6)):
        longer = {default.key: LongerLoad(TIMES, {key: value * factor for key, value in fine.items()})}
        told[name] = keep_line(replace(here, longer_loads=longer))
    assert told["lasts"] == ["The default settings meet the targets too, with less headroom."]
    assert told["fails"] == ["The default settings meet the targets on this trace, but not if its traffic continues."]
