"""Which failed runs on the engine are held against their configuration."""

from collections.abc import Sequence

from .study import Trial

NOT_A_CONFIGURATIONS_FAULT = frozenset({"no-vllm", "port", "model", "drafts", "disk-full"})
"""Reasons for which no configuration would start."""
PERHAPS_NOBODYS_FAULT = frozenset({"killed", "hang", "no-answer"})
"""Reasons that the machine, or somebody at it, may have given just as well as the settings."""
TRIES = 2
"""Runs that may end for such a reason before the settings are held to have given it."""


def excusable(failure: Trial) -> bool:
    """Whether a failure may be nobody's fault."""
    return failure.failure in PERHAPS_NOBODYS_FAULT


def at_fault(failures: Sequence[Trial]) -> bool:
    """Whether the failures of a configuration are its own: one that nothing excuses, or too many of those that may be
    nobody's fault."""
    return len(failures) >= TRIES or not all(map(excusable, failures))
