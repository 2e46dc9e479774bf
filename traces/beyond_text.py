"""What a request is besides text for the base model: other tools' keys and columns tell it. None of it is simulated."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .columns import BadRow

NOT_OF_TEXT = re.compile(
    "(?<!container_)(?<!docker_)(?i:image)(?!_tag)|(?i:audio|video|multi_?modal|modality|adapter)|^mm_|^type$"
    "|(?<![A-Za-z])(?i:lora|vision)|(?<=[a-z])L(?i:ora)"
)
PLAIN = frozenset({"", "0", "0.0", "-1", "none", "null", "false", "no", "base", "text"})
"""Values, in lower case, by which they tell that it is nothing else."""
MEDIA = frozenset({"image", "audio", "video"})
"""What a `type` may be that is no text; it has many other meanings."""


def telling(names: Iterable[str]) -> list[str]:
    """Those of the names that tell of images, audio, video or adapters."""
    return list(filter(NOT_OF_TEXT.search, names))


def check_of_text(row: Mapping[str, Any], names: Iterable[str]) -> None:
    """BadRow where one of these `telling` names does tell that the request is not text for the base model."""
    for name in names:
        value = row.get(name)
        if str(value).lower() in MEDIA if name == "type" else not _is_plain(value):
            told = "images, audio, video and adapters are not simulated"
            mend = "leave such requests out, or what is so named if it means something else"
            raise BadRow(f"{name} {repr(value)[:40]}: {told}; {mend}")


def _is_plain(value: Any) -> bool:
    """Whether nothing is told by a value, or by all that it holds."""
    if isinstance(value, dict | list):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return str(value).lower() in PLAIN
