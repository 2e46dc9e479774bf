"""Where a study's numbers come from, how far to trust them, and how to make them again."""

import json
import platform
import shlex
from collections.abc import Mapping
from typing import Any

from ...figures import NONE, digits, figure
from ...profiler.profile import Profile
from ...profiler.provenance import KERNEL_TABLES
from ...release import own_version
from ..study.study import Study
from .tables import Cell, Row, Table

ERROR_TITLE = "Error of the predicted step times, on steps held out of the fit"
FIT_TITLE = "Error of the fit to the kernel tables, which says nothing about a real engine"


def provenance(study: Study, profile: Profile, trust: Mapping[str, Any]) -> dict[str, Any]:
    """What the study was made with, how far to trust what it recommends, and the commands that make it again."""
    asked = study.asked
    facts = {
        "profile": f"{asked.profile} ({profile.source}; SHA-256 {asked.profile_digest[:12]})",
        "engine": " ".join(str(v) for v in (profile.engine.name, profile.engine.version) if v),
        "trace": f"{asked.trace} (SHA-256 {asked.trace_digest[:12]})",
        "targets": " ".join([*asked.slos, *(f"goodput {k}:{digits(v)}" for k, v in asked.goodput.items())]),
        "goals": " ".join([*(f"maximize {m}" for m in asked.maximize), *(f"minimize {m}" for m in asked.minimize)]),
        "optimizer": f"{asked.optimizer}, seed {asked.seed}",
        "policy": asked.policy,
        "made with": f"slotune {asked.versions.slotune}, SMAC {asked.versions.smac}, Python {asked.versions.python}",
        "report by": f"slotune {own_version()}, Python {platform.python_version()}",
        "steps outside what was measured": f"{100 * trust['extrapolated_share']:.1f} %",
    }
    errors = [
        Row((regime,), [Cell(figure(100 * e["median_error"], 3)), Cell(_p90(e)), Cell(str(e["compositions"]))])
        for regime, e in trust["step_time_error"].items()
    ]
    return {
        "facts": Table(("", ""), [Row(pair) for pair in facts.items() if pair[1]], labels=2),
        "errors_title": FIT_TITLE if profile.source == KERNEL_TABLES else ERROR_TITLE,
        "errors": Table(("steps", "median, %", "90 % of steps within, %", "compositions"), errors),
        "notes": [*trust["not_represented"], *trust["notes"]],
        "commands": commands(study),
    }


def _p90(error: Mapping[str, Any]) -> str:
    return figure(100 * error["p90_error"], 3) if error["p90_error"] is not None else NONE


def _typed(value: Any) -> str:
    """As --engine reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def commands(study: Study) -> str:
    """The command lines that make the study again."""
    asked, folder = study.asked, str(study.folder)
    model = [("model", asked.model)] if asked.model else []
    words = ["slotune", "tune", "--profile", asked.profile, "--trace", asked.trace]
    for option, values in (
        ("--slo", asked.slos),
        ("--goodput", [f"{metric}:{digits(ms)}" for metric, ms in asked.goodput.items()]),
        ("--maximize", asked.maximize),
        ("--minimize", asked.minimize),
        ("--engine", [f"{name}={_typed(value)}" for name, value in [*asked.engine.items(), *model]]),
        ("--rate", [asked.rate] if asked.rate else []),
        ("--max-concurrency", [asked.max_concurrency] if asked.max_concurrency else []),
    ):
        words += [word for value in values for word in (option, str(value))]
    words += ["--policy", asked.policy, "--optimizer", asked.optimizer, "--seed", str(asked.seed)]
    words += ["--trials", str(asked.trials), "--out", folder]
    return "\n".join(shlex.join(line) for line in (words, ["slotune", "report", folder], ["slotune", "export", folder]))
