"""best.yaml: recommended settings as `vllm serve --config` reads them, headed by what they were chosen on."""

import json
from collections.abc import Sequence

from ..simulator.engine_config import Settings
from ..simulator.misses import unanswered
from .deployment import checkpoint_note, served
from .export import vllm_yaml
from .objective import Metrics
from .task import Task


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
        model: what the engine served, where it ran; otherwise the profile's.
    """
    asked, profile = task.asked, task.profile
    load = f"trace {asked.trace}" + (f" at {asked.rate:g} requests/s" if asked.rate else "")
    comments = [found[0], load, *_circumstances(task, settings), *unanswered(metrics or {}), *found[1:]]
    return vllm_yaml(served(profile, settings), model or profile.engine.model, comments)


def warned(text: str, lines: Sequence[str]) -> str:
    """The text of a best.yaml with more lines at its head, each once."""
    new = [f"# {part}\n" for line in lines for part in line.splitlines() if f"# {part}\n" not in text]
    return "".join(new) + text


def _circumstances(task: Task, settings: Settings) -> list[str]:
    """What the numbers rest on beside profile and trace."""
    asked = task.asked
    acceptance = asked.engine.get("speculative_config")
    return [
        *filter(None, [checkpoint_note(task.profile)]),
        *([f"at most {asked.max_concurrency} requests in flight"] if asked.max_concurrency else []),
        *([f"scheduled by {asked.policy}, which is not how vLLM does"] if asked.policy != "vllm-v1" else []),
        *([f"drafts accepted as assumed: {json.dumps(acceptance)}"] if acceptance else []),
        *task.profile.trust(settings)["not_represented"],
    ]
