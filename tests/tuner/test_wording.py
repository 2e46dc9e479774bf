"""Numbers are worded alike, of one run and of several, as tables have them."""

from slotune.tuner.finalists.other_orders import OtherOrders
from slotune.tuner.wording import of_metric


def test_thousands_of_milliseconds_have_no_exponent():
    word = of_metric("p99_e2el_ms")
    runs = [{"p99_e2el_ms": value_ms} for value_ms in (63_894.2, 812.345)]
    assert word.run(runs[0]) == "63,894"
    assert word.orders(OtherOrders(runs)) == "812.3 to 63,894"
