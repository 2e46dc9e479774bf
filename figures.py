"""Numbers as people read them."""

import math
from decimal import Decimal

NONE = "-"
"""What is not known, in tables."""


def figure(value: float, significant: int = 4) -> str:
    """So many significant digits, larger numbers whole and with commas; a dash for NaN, ∞ for what has no end."""
    if math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    is_large = round(abs(value), 1) >= 10 ** (significant - 1)
    return f"{value:,.0f}" if is_large else f"{value:.{significant}g}"


def digits(value: float) -> str:
    """All digits of a number, none that it does not have, no exponent."""
    text = f"{Decimal(repr(float(value))):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
