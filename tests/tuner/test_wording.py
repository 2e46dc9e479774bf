"""Numbers are worded alike, of one run and of several, as tables have them."""

import subprocess
import sys

from slotune.tuner.finalists.other_orders import OtherOrders
from slotune.tuner.wording import of_metric


def test_thousands_of_milliseconds_have_no_exponent():
    word = of_metric("p99_e2el_ms")
    runs = [{"p99_e2el_ms": value_ms} for value_ms in (63_894.2, 812.345)]
    assert word.run(runs[0]) == "63,894"
    assert word.orders(OtherOrders(runs)) == "812.3 to 63,894"


def test_what_simulate_says_needs_nothing_of_the_search() -> None:
    """Its libraries would double the start of a command that is over in a second."""
    loads = (
        "import sys, slotune.tuner.wording as _; print(sorted({'ConfigSpace', 'smac', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
