"""best.yaml: recommended settings as `vllm serve --config` reads them, headed by what they were chosen on."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...simulator.misses import unanswered
from ...simulator.policy_names import policy_note
from ...simulator.settings import Settings
from ...simulator.speculation import parse_speculation
from ..objective import Metrics
from .deployment import checkpoint_note, drafter_note, served
from .export import vllm_yaml
from .task import Task

RECOMMENDED, NEAREST = "recommended", "nearest"
"""What settings are called that meet the targets, and the best where none does."""


def head_line(called: str, by: str) -> str:
    """What the settings are, "recommended" or "nearest", and what they were found by."""
    misses = ", THE NEAREST OF THOSE THAT ALL MISS A TARGET" if called == NEAREST else ""
    return f"{called} by slotune {by}{misses}"


def best_yaml(
    task: Task,
    settings: Settings,
    found: Sequence[str],
    metrics: Metrics | None = None,
    model: str | None = None,
) -> str:
    """The text of the file.

    Args:
        found: how the settings were found and what speaks for them, a line each.
        metrics: what they are predicted to do, where it is that which speaks for them.
        model: what the engine served, where it ran; otherwise the one that was asked for, or the profile's.
    """
    asked, profile = task.asked, task.profile
    load = f"trace {asked.trace}" + (f" at {asked.rate:g} requests/s" if asked.rate else "")
    comments = [found[0], load, *_circumstances(task, settings), *unanswered(metrics or {}), *found[1:]]
    return vllm_yaml(served(profile, settings), model or task.model, comments)


def _circumstances(task: Task, settings: Settings) -> list[str]:
    """What the numbers rest on beside profile and trace."""
    asked = task.asked
    return [
        *filter(None, [checkpoint_note(task.profile)]),
        *(
            [f"given for the server and not in this file: {', '.join(asked.of_the_server)}"]
            if asked.of_the_server
            else []
        ),
        *([f"at most {asked.max_concurrency} requests in flight"] if asked.max_concurrency else []),
        *filter(None, [policy_note(asked.policy)]),
        *_acceptance(task.speculative_config),
        *drafter_note(task.profile, settings),
        *task.profile.trust(asked.with_model(settings))["not_represented"],
    ]


def _acceptance(speculative_config: Mapping[str, Any] | None) -> list[str]:
    if not speculative_config:
        return []
    rates = parse_speculation(speculative_config).acceptance_rates
    return [f"drafts assumed to be accepted, by position: {', '.join(f'{rate:.3g}' for rate in rates)}"]
