"""Numbers in the words of the command line, the reports and the files."""

import math

import pytest

from slotune.figures import digits, figure


@pytest.mark.parametrize(
    ("value", "four", "three"),
    [
        (math.nan, "-", "-"),
        (math.inf, "∞", "∞"),
        (-math.inf, "-∞", "-∞"),
        (0.0, "0", "0"),
        (0.000123456, "0.0001235", "0.000123"),
        (26.584, "26.58", "26.6"),
        (99.96, "99.96", "100"),
        (999.6, "999.6", "1,000"),
        (999.96, "1,000", "1,000"),
        (-12345.6, "-12,346", "-12,346"),
    ],
)
def test_a_figure_has_as_many_digits_as_are_asked_for_and_no_exponent_where_it_is_large(
    value: float, four: str, three: str
) -> None:
    assert (figure(value), figure(value, 3)) == (four, three)


@pytest.mark.parametrize(
    ("value", "text"), [(99, "99"), (99.9, "99.9"), (30.0, "30"), (1e-5, "0.00001"), (2e16, "2" + 16 * "0")]
)
def test_all_digits_and_none_besides(value: float, text: str) -> None:
    assert digits(value) == text
