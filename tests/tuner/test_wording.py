"""Numbers are worded alike, of one run and of several, as tables have them."""

import subprocess
import sys

from slotune.simulator.slo import Slo
from slotune.tuner.finalists.other_orders import OtherOrders
from slotune.tuner.objective import Objective
from slotune.tuner.sensitivity import Doubt, Sensitivity
from slotune.tuner.study.study import Trial
from slotune.tuner.wording import of_metric, of_targets


def test_thousands_of_milliseconds_have_no_exponent():
    word = of_metric("p99_e2el_ms")
    runs = [{"p99_e2el_ms": value_ms} for value_ms in (63_894.2, 812.345)]
    assert word.run(runs[0]) == "63,894"
    assert word.orders(OtherOrders(runs)) == "812.3 to 63,894"


def test_enough_good_requests_are_worded_as_a_target_where_they_are_one():
    rates = {"completed": 100.0, "failed": 0.0, "request_throughput": 10.0, "p99_ttft_ms": 400.0}
    good, few = rates | {"request_goodput": 9.95}, rates | {"request_goodput": 7.5}
    share, target = of_targets(Objective((Slo(99.0, "ttft", 500.0),), goodput={"tpot": 30.0}))
    assert (share.name, target.name) == ("99% of requests good", "p99:ttft:500")
    assert (share.is_met(good), share.is_met(few)) == (True, False)
    assert (share.run(good), share.run(few)) == ("met (99.5%)", "missed (75.0%)")
    assert share.orders(OtherOrders([few, good])) == "met in 1 (75.0% to 99.5%)"
    assert share.steps(Sensitivity(Doubt(0.1, 0.0), good, few)) == "met (99.5%) / missed (75.0%)"
    assert share.of(Trial({}, None, message="no memory")) == "does not start: no memory"
    assert [word.name for word in of_targets(Objective(goodput={"tpot": 30.0}))] == [], "by itself it is a goal"
    assert of_metric("p99_ttft_ms").is_met(few)


def test_what_simulate_says_needs_nothing_of_the_search() -> None:
    """Its libraries would double the start of a command that is over in a second."""
    loads = (
        "import sys, slotune.tuner.wording as _; print(sorted({'ConfigSpace', 'smac', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
