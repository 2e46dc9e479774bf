"""Many configurations side by side: read from a file, simulated on all cores, sorted, written as CSV."""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InfeasibleError, InputError, one_line, unknown_name
from ..profiler.profile import Profile
from ..profiler.trust import largest_share
from ..simulator.config_file import NOT_YAML
from ..simulator.settings import Settings, nothing_drafted, settings_of
from ..simulator.slo import OF_ALL, Slo, percentile_of
from ..simulator.speculation import with_drafts
from ..whole_file import write_text
from .evaluate import Outcome, SimulatedRun
from .objective import ALIASES, LATENCIES, THROUGHPUTS, Metrics, Objective, answers_as_many, failed_share
from .workers import workers

MOST_CONFIGURATIONS = 1_000_000
"""A grid beyond this is a slip of the pen, not a plan."""


@dataclass(frozen=True, slots=True)
class Screened:
    """One configuration and what came of it."""

    index: int
    """Its place in the file, from 0."""
    settings: Settings
    """As the file has it, over the common settings."""
    outcome: Outcome


def read_configurations(path: Path) -> list[Settings]:
    """The configurations in a YAML or JSON file: a list of settings, or all of a grid (name: list of values).

    Raises InputError for a file that is neither, an unknown setting, or a value of the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check_names(yaml.compose(text, yaml.SafeLoader), path)
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except NOT_YAML as error:
        raise InputError(f"{path}: neither YAML nor JSON: {one_line(error)}") from error
    if isinstance(content, dict):
        return _grid(content, path)
    if not (isinstance(content, list) and content and all(isinstance(item, dict) for item in content)):
        raise InputError(f"{path}: expected a list of settings or a grid like `max_num_seqs: [64, 128]`")
    return [settings_of(item, f"{path}: entry {number}") for number, item in enumerate(content, 1)]


def _check_names(document: Any, path: Path) -> None:
    """Raise InputError where a name stands twice in a mapping at the top or in a list there: of the two, PyYAML would
    keep the last, and half of a grid would not be seen."""
    for mapping in document.value if isinstance(document, yaml.SequenceNode) else [document]:
        seen: set[str] = set()
        for key, _ in mapping.value if isinstance(mapping, yaml.MappingNode) else ():
            if (name := str(key.value)) in seen:
                raise InputError(f"{path}: line {key.start_mark.line + 1}: {name} is named twice")
            seen.add(name)


def _grid(content: Mapping[Any, Any], path: Path) -> list[Settings]:
    for name, values in content.items():
        if not (isinstance(values, list) and values):
            raise InputError(f"{path}: {name}: a grid needs a list of values, not {values!r}")
    size = math.prod(map(len, content.values()))
    if size > MOST_CONFIGURATIONS:
        raise InputError(f"{path}: the grid has {size} configurations, more than {MOST_CONFIGURATIONS}; thin it out")
    combinations = itertools.product(*content.values())
    return [settings_of(dict(zip(content, values, strict=True)), str(path)) for values in combinations]


def drafting(configurations: Sequence[Settings], common: Settings, acceptance: str | None) -> list[Settings]:
    """The configurations with what they say of drafts in one place, over what `common` says, and with so many of them
    accepted (`with_drafts`). Raises InputError for an acceptance where none drafts."""
    told = [with_drafts(one, common, acceptance) for one in configurations]
    if acceptance and not any((common | one).get("speculative_config") for one in told):
        raise nothing_drafted(acceptance)
    return told


def screen(
    configurations: Sequence[Settings],
    run: SimulatedRun,
    common: Settings,
    *,
    sort: str | None = None,
    objective: Objective | None = None,
    jobs: int | None = None,
    dask_scheduler: str | None = None,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Screened]:
    """Every configuration over the `common` settings, best first; those that could not run come last, in file order,
    and before them those under which max_model_len cuts answers or, by a latency, more requests go unanswered.

    Best is the smallest latency or the largest throughput `sort`; without it the best for the objective, and without
    either the largest output throughput. The same whatever the number of `jobs`, and on the Dask cluster at
    `dask_scheduler`.
    """
    rows: list[Screened] = []
    with workers(run, jobs, prepare=run.compile, dask_scheduler=dask_scheduler) as run_all:
        for index, outcome in enumerate(run_all([common | settings for settings in configurations])):
            rows.append(Screened(index, configurations[index], outcome))
            on_done(index + 1)
    return sorted(rows, key=_order(sort, objective, [row.outcome.metrics for row in rows if row.outcome.metrics]))


def require_targets(rows: Sequence[Screened], objective: Objective | None) -> None:
    """Raise InputError where no configuration could run, InfeasibleError where there are targets and none meets
    them."""
    if all(row.outcome.metrics is None for row in rows):
        raise InputError(f"no configuration of {len(rows)} could run, the first because: {rows[0].outcome.message}")
    if objective and objective.slos and not any(meets(row, objective) for row in rows):
        raise InfeasibleError(f"none of {len(rows)} configurations meets the targets")


def meets(row: Screened, objective: Objective | None) -> bool | None:
    """Whether a configuration meets the targets, --goodput as a share of the requests among them; None where there is
    no target or no run."""
    if objective is None or not objective.slos or row.outcome.metrics is None:
        return None
    return objective.fulfilled(row.outcome.metrics)


def check_metric(name: str, goodput: Mapping[str, float], slos: Iterable[Slo] = ()) -> str:
    """The metric to sort by, one of `slos` among them. Raises InputError for one that does not exist."""
    name, valid = ALIASES.get(name, name), (*THROUGHPUTS, *LATENCIES, *(slo.key for slo in slos))
    if name == "request_goodput" and not goodput:
        raise InputError("--sort request_goodput needs to know what a good request is: add --goodput ttft:500")
    if name not in valid and percentile_of(name) is None:
        raise unknown_name("metric", name, (*valid, *ALIASES))
    return name


def _order(
    sort: str | None, objective: Objective | None, ran: Sequence[Metrics]
) -> Callable[[Screened], tuple[float, bool, bool, float, int]]:
    most = min(ran, key=failed_share, default={})
    reference = max(ran, key=lambda metrics: (-failed_share(metrics), metrics["request_throughput"]), default={})
    by_latency = sort is not None and sort not in THROUGHPUTS

    def key(row: Screened) -> tuple[float, bool, bool, float, int]:
        metrics = row.outcome.metrics
        if metrics is None:
            return 1.0, False, False, 0.0, row.index
        # Shorter answers are no faster ones, nor is one of them that turns requests away.
        place = 0.5 if metrics["answers_cut"] or (by_latency and not answers_as_many(metrics, most)) else 0.0
        if sort is None and objective is not None:
            value, missed = sum(objective.costs(metrics, reference)), not objective.meets(metrics)
        else:
            metric, missed = sort or "output_throughput", False
            value = -metrics[metric] if metric in THROUGHPUTS else _latency(metric, metrics)
        return place, missed, math.isnan(value), 0.0 if math.isnan(value) else value, row.index

    return key


def _latency(metric: str, metrics: Metrics) -> float:
    """A percentile over all requests: one that turns requests away is not the faster for it."""
    answered = metrics[metric]
    if not (metric.startswith("p") and metrics["failed"]) or math.isnan(answered):
        return answered
    return metrics.get(metric + OF_ALL, math.inf)


def setting_names(rows: Sequence[Screened]) -> list[str]:
    """Every setting that some configuration names, in the order of the file."""
    by_file = sorted(rows, key=lambda row: row.index)
    return list(dict.fromkeys(name for row in by_file for name in row.settings))


def write_csv(rows: Sequence[Screened], path: Path, objective: Objective | None = None) -> None:
    """One line a configuration, best first: its settings, its metrics, whether it meets the targets (which a percentile
    of the answered requests does not tell where some are not), or why it could not run."""
    names = setting_names(rows)
    metrics = list(dict.fromkeys(name for row in rows for name in row.outcome.metrics or {}))
    lines = [["config", *names, *metrics, "meets", "failure", "message"]]
    for row in rows:
        numbers = row.outcome.metrics or {}
        settings = [_cell(row.settings[name]) if name in row.settings else "" for name in names]
        met = meets(row, objective)
        ending = ["" if met is None else _cell(met), row.outcome.failure or "", row.outcome.message or ""]
        lines.append([str(row.index), *settings, *[_cell(numbers.get(name, "")) for name in metrics], *ending])
    write_text(path, _csv_text(lines))


def _csv_text(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def trust_of(
    rows: Sequence[Screened], profile: Profile, common: Settings, objective: Objective | None = None
) -> dict[str, Any]:
    """How far to believe the table: a share is that of the configuration with the largest.

    What piles up is told of those only that meet the targets: it puts the others in no more doubt.
    """
    runs = [row.outcome.metrics for row in rows]
    hopeful = [row.outcome.metrics for row in rows if row.outcome.metrics and meets(row, objective) is not False]
    trust = profile.trust(*(common | row.settings for row in rows), runs=runs)
    return trust | {"piled_up_share": largest_share(hopeful, "piled_up_share")}


def document(rows: Sequence[Screened], objective: Objective | None) -> dict[str, Any]:
    """The JSON document of `slotune screen --json`."""
    return {
        "configurations": [
            {
                "config": row.index,
                "engine": row.settings,
                "metrics": row.outcome.metrics,
                "meets": meets(row, objective),
                "failure": row.outcome.failure,
                "message": row.outcome.message,
            }
            for row in rows
        ]
    }
