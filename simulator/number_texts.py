"""Numbers as vLLM's command line reads them from text."""

import re
from collections.abc import Callable


def decimal(text: str, read: Callable[[str], float]) -> float | str:
    """A number as Python reads it, where YAML has octal ones (010), base 60 (1:30) and neither 08 nor 1e-2; other text
    as it is."""
    try:
        return read(text)
    except ValueError:
        return text


def human_readable(text: str) -> int | str:
    """`25.6k` or `2G` as vLLM takes them (vllm/utils/argparse_utils.py, human_readable_int); other text as it is."""
    match = re.fullmatch(r"(\d+)(\.\d+)?([kmgt])", text) or re.fullmatch(r"(\d+)()([KMGT])", text)
    if match is None:
        return text
    power = "kmgt".index(match[3].lower()) + 1
    return int(float(match[1] + (match[2] or "")) * (1000 if match[3].islower() else 1024) ** power)
