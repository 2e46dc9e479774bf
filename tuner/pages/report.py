"""One self-contained HTML page of a study: the answer first, then everything it rests on.

The page loads nothing and runs nothing, as its Content-Security-Policy says, so it can be mailed, archived, printed.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import SlotuneError
from ...figures import figure
from ...profiler.trust_page import lines as trust_lines
from ...simulator.misses import unanswered
from ...simulator.settings import Settings
from ...traces.stats import request_rate
from ...whole_file import write_text
from ..conclusion import concluded
from ..finalists.finalists import eligible, ran
from ..finalists.idle_changes import ORIGIN as PLAIN
from ..finalists.longer_load import decided_by, lasts_only, lost_there
from ..hardware.validation import failure_lines, nothing_said, ran_lines, validation_of
from ..objective import Metrics
from ..recommendation import Recommendation, called, cautions, default_lasts, lost_lines
from ..study.comparison import Compared, Quantity, quantities
from ..study.deployment import served
from ..study.export import command_line
from ..study.ranking import ranked, reference_of
from ..study.study import Study, Trial, settings_key
from ..study.task import load_task
from ..wording import Wording, of_limits, of_metric, of_targets
from .pictures import effects_section, measured_points, rate_line, trials_picture
from .plots import BLUE, GREY, LatencyPanel, latency_against_rate, predicted_against_measured
from .provenance import provenance
from .sweep import LASTING_REQUESTS, SWEEP_REQUESTS, one_at_a_time, over_rates
from .tables import Side, Table, answer_table, changes_table, failures_table, trials_table, validation_table
from .validation_page import cache_lines, drift_text, forced_lines, unanswered_lines

REPORT_FILE = "report.html"
TRIALS_SHOWN = 15

Note = Callable[[str], None]


def write_report(
    folder: Path, out: Path | None = None, *, jobs: int | None = None, note: Note = lambda what: None
) -> Path:
    """Write the page of the study in `folder` (default: report.html in it) and return its path.

    `note` hears what is being done. Raises InputError where `folder` is no study, or its profile or trace changed.
    """
    with Study.open(folder) as study:
        task = load_task(study.asked)
        if not study.trials("simulation"):
            raise SlotuneError(f"{folder}: no trial in it yet; run `slotune tune` first")
        text = Page(study, concluded(study, task)).render(jobs, note)
    path = out or folder / REPORT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


class Page:
    """What the page says of one study."""

    def __init__(self, study: Study, found: Recommendation) -> None:
        self.study = study
        self.task = found.task
        self.objective = found.task.objective
        self.shown = quantities(found.task.objective)
        self.latencies = [quantity for quantity in self.shown if quantity.unit == "ms"]
        self.trials = study.trials("simulation")
        self.measured = validation_of(study, found.task)
        self.compared, self.verdict = self.measured.found, self.measured.verdict
        self.said = self.verdict.sentence if self.verdict else nothing_said(self.compared)
        self.found = found
        self.default: Settings = dict(study.asked.engine)
        self.best = found.settings
        self.called = called(found)
        self.metrics: Metrics = found.best.metrics or {}
        self.longer = found.longer_load_of(found.best)

    def render(self, jobs: int | None, note: Note) -> str:
        """The page; runs the simulations that its pictures need."""
        from jinja2 import Environment, StrictUndefined

        note("simulating other rates")
        rates = self._rates()
        note("simulating one setting at a time")
        effects = effects_section(one_at_a_time(self.task, self.best, jobs), self.objective, self._in_use())
        template = files(__package__).joinpath("templates/report.html.j2").read_text(encoding="utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
        return environment.from_string(template).render(
            name=self.study.folder.resolve().name,
            subject=self._subject(),
            called=self.called,
            answer=self._answer(),
            command=self._command(),
            validation=self._validation(),
            part=f" with the first {SWEEP_REQUESTS:,} requests" if len(self.task.trace) > SWEEP_REQUESTS else "",
            lasting=f"{LASTING_REQUESTS:,}",
            rates=rates,
            effects=effects,
            trials=self._trials(),
            provenance=provenance(self.study, self.task.profile, self.found.trust()),
        )

    def _command(self) -> str:
        """What starts the recommended engine, of the model that was measured where one was."""
        model = self.measured.ran.get("model") or self.task.model
        return command_line(served(self.task.profile, self.best), model or "MODEL")

    def _subject(self) -> str:
        facts, trace = self.task.profile.engine, self.task.trace
        rate = request_rate(trace)
        arrivals = "all at once" if math.isnan(rate) else f"{figure(rate, 3)} requests/s"
        parts = (
            self.task.model,
            facts.device,
            f"trace {Path(self.study.asked.trace).name}: {len(trace):,} requests, {arrivals}",
        )
        return " · ".join(part for part in parts if part)

    def _answer(self) -> dict[str, Any]:
        changed = self.task.space.changes(self.best)
        meets = self.objective.meets(self.metrics)
        good = self.verdict.meets_targets if self.verdict else meets and not failure_lines(self.compared)
        sides = [Side("default", self.found.default.metrics, self._measured(self.default))]
        if changed:
            sides.append(Side(self.called, self.found.best.metrics, self._measured(self.best)))
        return {
            "good": good,
            "headline": self._headline(changed, good),
            "sentences": self._sentences(),
            "source": f"Where the times come from: {'; '.join(trust_lines(self.found.trust()))}.",
            "table": answer_table(self.objective, self.shown, sides),
            "changes": changes_table(self.best, self._defaults(), self.default, self.called),
        }

    def _headline(self, changed: Mapping[str, Any], good: bool) -> str:
        targets = len(of_targets(self.objective))
        what = f"Change {len(changed)} setting{'s' * (len(changed) != 1)}" if changed else "Keep the default settings"
        if self.verdict is None and failure_lines(self.compared):
            return f"The runs on the engine do not decide. By prediction alone: {what[0].lower()}{what[1:]}."
        if not targets:
            return f"{what}."
        count = {1: "the target is", 2: "both targets are"}.get(targets, f"all {targets} targets are")
        if good and self.verdict is None and lost_lines(self.found):
            return f"{what}: {count} met on this trace, but not if its traffic continues."
        if good and self.verdict is None:
            told = "; the default settings meet them too" if changed and default_lasts(self.found) else ""
            return f"{what}: {count} met in simulation{told}."
        if good:
            return f"{what}: {count} met."
        if self.verdict is None and lasts_only(self.objective, self.metrics, self.longer):
            return f"{what}: no configuration meets every target on this trace; this one does if its traffic continues."
        return f"{what}; no configuration meets every target; this one comes nearest."

    def _sentences(self) -> list[str]:
        default, best = self.found.default.metrics, self.found.best.metrics
        sentences = []
        if default and best and self.found.default.key != self.found.best.key:
            goals = {goal.metric for goal in self.objective.effective_goals}
            served = [quantity for quantity in self.shown if quantity.unit != "ms" and quantity.key in goals]
            changes = [self._change(quantity, default, best) for quantity in (*served, *self.latencies[:3])]
            sentences.append("Predicted: " + "; ".join(changes) + ".")
        elif default is None:
            sentences.append("The default configuration cannot run here.")
        sentences += [f"With the {self.called} settings {line}." for line in unanswered(best or {})]
        sentences += self._varied()
        sentences.append(self.said)
        return sentences

    def _varied(self) -> list[str]:
        """What the recommended settings give under other circumstances, where that is known."""
        goals = [of_metric(goal.metric) for goal in self.objective.effective_goals]
        words = [*goals, *of_limits(self.objective)]
        orders, longer = self.found.orders_of(self.found.best), self.longer
        steps = self.found.sensitivity_of(self.found.best)
        told = []
        if orders and words:
            told.append(f"The same requests {orders.label}: {_each(words, lambda word: word.orders(orders))}.")
        if longer and words:
            told.append(f"The same traffic {longer.label}: {_each(words, lambda word: word.run(longer.metrics))}.")
        if steps and words:
            told.append(f"With {steps.label}: {_each(words, lambda word: word.steps(steps))}.")
        return [*told, *map(_sentence, cautions(self.found))]

    @staticmethod
    def _change(quantity: Quantity, default: Metrics, best: Metrics) -> str:
        return f"{quantity.label} {figure(quantity.of(default), 3)} → {figure(quantity.of(best), 3)} {quantity.unit}"

    def _measured(self, settings: Settings) -> Compared | None:
        return next((one for one in self.compared if one.key == settings_key(settings)), None)

    def _defaults(self) -> dict[str, Any]:
        return {knob.name: knob.default for knob in self.task.space.knobs} | self.default

    def _in_use(self) -> dict[str, Any]:
        return self._defaults() | self.best

    def _validation(self) -> dict[str, Any] | None:
        """None where nothing was tried on the engine."""
        failures = [trial for one in self.compared for trial in one.failures]
        if not (failures or any(one.runs for one in self.compared)):
            return None
        name = self.verdict.recommended.name if self.verdict else ""
        panels = [(q.heading, measured_points(self.compared, q)) for q in self.latencies]
        drawn = [(title, points) for title, points in panels if points]
        return {
            "sentences": self._measured_sentences(),
            "table": validation_table(self.compared, self.shown, name),
            "failures": failures_table(failures, self.default),
            "scatter": predicted_against_measured(drawn) if drawn else "",
        }

    def _measured_sentences(self) -> list[str]:
        lines = ran_lines(self.measured) + unanswered_lines(self.compared) + forced_lines(self.task)
        told = [*lines, *cache_lines(self.compared, self.task.profile), drift_text(self.measured)]
        return [self.said, *map(_sentence, told)]

    def _rates(self) -> str:
        """The picture of latency against rate; empty where the trace has no rate."""
        sides = [("default", self.default, GREY)]
        if self.task.space.changes(self.best):
            sides.append((self.called, self.best, BLUE))
        curves = [(label, over_rates(self.task, settings), color) for label, settings, color in sides]
        if not curves[0][1]:
            return ""
        panels = [
            LatencyPanel(
                quantity.label,
                [rate_line(label, points, quantity, color) for label, points, color in curves],
                quantity.slo.limit_ms if quantity.slo else None,
            )
            for quantity in self.latencies[:3]
        ]
        told = [panel for panel in panels if any(math.isfinite(y) for line in panel.lines for y in line.y)]
        return latency_against_rate(told, request_rate(self.task.trace)) if told else ""

    def _trials(self) -> dict[str, Any]:
        reference = reference_of(self.trials)
        order = ranked(self.trials, self.objective, self.task.space, reference)
        tried = [trial for trial in self.trials if trial.origin != PLAIN]

        def rows(part: Sequence[Trial]) -> Table:
            return trials_table(part, self.shown[:6], self.objective, self.default, self.best)

        return {
            "sentence": self._trials_sentence(tried),
            "plot": trials_picture(tried, self.objective),
            "front": rows(self.found.front),
            "table": rows(order[:TRIALS_SHOWN]),
            "rest": rows(order[TRIALS_SHOWN:]),
            "failures": failures_table([trial for trial in self.trials if trial.metrics is None], self.default),
        }

    def _trials_sentence(self, tried: Sequence[Trial]) -> str:
        meeting = sum(self.objective.meets(trial.metrics or {}) for trial in tried)
        failed = sum(trial.metrics is None for trial in tried)
        targets = f" {meeting} meet every target," if self.objective.slos else ""
        trials, longer = ran(self.study), self.found.longer_loads
        candidates = eligible(trials, self.task, lost_there(trials, self.task, longer))
        decisive = decided_by(candidates, self.task, longer)
        lasts = self.found.best.key in {trial.key for trial in decisive}
        orders = "other orders of the requests" if self.found.orders else "it"
        kept = self.found.best.key == self.found.default.key and default_lasts(self.found)
        why = "the measurements" if self.verdict else "the longer load" if lasts else orders
        if kept and not (self.verdict or self.objective.effective_goals):
            why = "the default meets the targets and none is better beyond chance, which"
        plain = f" {PLAIN}: one without its changes that had no effect." if len(tried) < len(self.trials) else ""
        return (
            f"{len(tried)} configurations simulated:{targets} {failed} cannot run. Best first on this trace alone; the "
            f"{self.called} one is marked: {why} decided.{plain}"
        )


def _sentence(line: str) -> str:
    """A line with a capital and a full stop; targets and settings stay as they are typed."""
    word = line.split(" ", 1)[0]
    return f"{line}." if re.search(r":\w|[=_]", word) else f"{line[0].upper()}{line[1:]}."


def _each(words: Sequence[Wording], text: Callable[[Wording], str]) -> str:
    return "; ".join(f"{word.name} {text(word)}" for word in words)
