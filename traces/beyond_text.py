"""What a request is besides text for the base model: other tools' keys and columns tell it. None of it is simulated."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from .columns import BadRow

NOT_OF_TEXT = re.compile(
    r"(?<!container[_.])(?<!docker[_.])(?<!container)(?<!docker)image(?![_.]?(?:tag|version))"
    r"|audio|video|multi_?modal|modalit(?:y|ies)|adapter|^mm_|^type$|(?<![a-z])(?:lora|vision)"
    r"|(?-i:(?<=[a-z])L)ora",
    re.IGNORECASE,
)
PLAIN = frozenset({"none", "null", "nan", "na", "n/a", "false", "f", "no", "n", "base", "text", "[]", "{}"})
"""Values, in lower case, by which they tell that it is nothing else."""
NO_NUMBER = re.compile(r"-?0*\.?0*|-1(?:\.0*)?")
"""As such are numbers of things that are not there, numbers of none, and nothing at all."""
MEDIA = frozenset({"image", "audio", "video"})
"""What a `type` may be that is no text; it has many other meanings."""


def telling(names: Iterable[str]) -> list[str]:
    """Those of the names that tell of images, audio, video or adapters."""
    return list(filter(NOT_OF_TEXT.search, names))


def check_of_text(told: Iterable[tuple[str, Any]]) -> None:
    """BadRow where one of these values, each with its `telling` name, is of a request that is not text for the base
    model."""
    for name, value in told:
        for word in _words(value):
            plain = word.lower() not in MEDIA if name.lower() == "type" else _is_nothing(word.lower())
            if not plain:
                mend = "leave such requests out, or that key or column if it means something else"
                raise BadRow(f"{name} {word[:40]!r}: images, audio, video and adapters are not simulated; {mend}")


def _words(value: Any) -> Iterator[str]:
    """All that a value holds, as text."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list):
            left += one
        else:
            yield str(one).strip()


def _is_nothing(word: str) -> bool:
    return word in PLAIN or NO_NUMBER.fullmatch(word) is not None
