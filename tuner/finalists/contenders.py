"""Which configurations run on the longer load: round by round, until enough of them last there."""

from collections.abc import Callable, Iterable, Sequence

from ...simulator.settings import Settings
from ..study.ranking import unlike
from ..study.study import Study, Trial, settings_key
from ..study.task import Task
from . import idle_changes
from .choice import picked
from .finalists import FINALISTS, eligible, few, front_without, ran
from .longer_load import LIKE_ONE_THAT_FAILED, LongerLoad, holding_up, longer_by, longer_loads_of, short_lived
from .variation import RunVariations, Variation, run_variations

ORIGIN = "longer load"
ROUNDS = 4
"""Of FINALISTS each: where so many of the best do not last, the search was for something that does not."""


def run_longer_load(
    study: Study,
    task: Task,
    run_all: RunVariations,
    on_trial: Callable[[Trial], None],
) -> None:
    """Run the default and the best few on the longer load (`run_variations`), and the next best in place of those that
    do not last there.

    What each round tries follows from the trials and the rounds before it alone, so that a study that goes on tries the
    same again, which it knows.
    """
    times = longer_by(task)
    if times == 1:
        return
    plain = [trial for trial in ran(study) if trial.origin == idle_changes.ORIGIN]
    tried = {settings_key(study.asked.engine): study.asked.engine} | {one.key: dict(one.settings) for one in plain}
    for number in range(ROUNDS):
        # The first round knows nothing, also where the study does: it would try others than the first time.
        known = {key: load for key, load in longer_loads_of(study).items() if key in tried and number > 0}
        best = _contenders(ran(study), task, known)
        if number > 0 and all(trial.key in tried for trial in best):
            return
        tried |= {trial.key: dict(trial.settings) for trial in best}
        _run(study, times, tried.values(), run_all, on_trial)


def run_picked(study: Study, task: Task, run_all: RunVariations, on_trial: Callable[[Trial], None]) -> None:
    """Run on the longer load what is picked, where it did not run there yet: what it gives there is to be told."""
    best, times = picked(study, task), longer_by(task)
    if best is not None and times > 1:
        _run(study, times, [dict(best.settings)], run_all, on_trial)


def _run(
    study: Study, times: int, many: Iterable[Settings], run_all: RunVariations, on_trial: Callable[[Trial], None]
) -> None:
    wanted = [(times, Variation(settings, times=times)) for settings in many]
    run_variations(study, "longer load", ORIGIN, wanted, run_all, on_trial)


def _contenders(trials: Sequence[Trial], task: Task, known: dict[str, LongerLoad]) -> list[Trial]:
    """The best few of those that last and those that are not known yet; by headroom where none lasts so far."""
    lost = short_lived(trials, task, known)
    candidates = eligible(trials, task, lost)
    held = holding_up(candidates, task, known)
    failed = [trial for trial in candidates if trial.key in known and trial not in held]
    open_to = [trial for trial in candidates if trial not in failed]
    hopeful = [*held, *_unlike_failed(open_to, failed, held, task)]
    if held or not failed:
        best = few(hopeful, trials, task)
        return best + _behind(trials, task, lost, best)
    return sorted(hopeful, key=lambda trial: (task.objective.worst_ratio(trial.metrics or {}), trial.number or 0))[
        :FINALISTS
    ]


def _behind(trials: Sequence[Trial], task: Task, gone: set[str], best: Sequence[Trial]) -> list[Trial]:
    """With several goals and a short front, the best of those behind it: of a round that tries two little is learned.
    `gone` are the keys of those that do not last."""
    if len(task.objective.goals) < 2:
        return []
    found: list[Trial] = []
    gone = gone | {trial.key for trial in front_without(trials, task, gone)}
    while len(best) + len(found) < FINALISTS:
        front = front_without(trials, task, gone)
        if not front:
            break
        found += few(front, trials, task)
        gone |= {trial.key for trial in front}
    return found[: FINALISTS - len(best)]


def _unlike_failed(
    trials: Iterable[Trial], failed: Sequence[Trial], held: Sequence[Trial], task: Task
) -> Iterable[Trial]:
    new = (trial for trial in trials if trial not in held)
    return unlike(new, failed, task.objective, LIKE_ONE_THAT_FAILED) if failed else new
