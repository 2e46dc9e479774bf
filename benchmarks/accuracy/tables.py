"""What the accuracy commands share: data that may be absent, and rows of Markdown tables."""

import sys
from pathlib import Path


def require(path: Path) -> Path:
    """`path`, or the end of the command with a line that says what is missing."""
    if not path.exists():
        sys.exit(f"{path}: no such data; --data names the folder of measurements (they do not come with slotune)")
    return path


def row(*cells: object) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def percent(predicted: float, measured: float) -> str:
    """By how many per cent the prediction is too high."""
    return f"{100 * (predicted / measured - 1):+.1f}"
