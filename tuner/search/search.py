"""The search: first configurations, suggestions in batches, and at the end the winner made plain and then perfect.

Model-guided suggestions find the right region soon and its best point late, if at all; so the last trials go to what is
certain: taking changes back that do nothing, and trying the next value of every knob.

The same seed gives the same trials whatever the number of workers: batches have a fixed size, are evaluated in order,
and are told in order. A study that is continued replays its search; trials that are on disk are read, not run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...arrays import F64
from ...simulator.settings import Settings
from ..evaluate import RunAll
from ..objective import Metrics, Objective
from ..study.ranking import as_good, recommended, reference_of
from ..study.space import SearchSpace
from ..study.study import Study, Trial, settings_key, trial_of
from .candidates import Candidates

BATCH = 8
"""Configurations under way at once; fixed, so that results do not depend on the machine."""
DESIGN = 14
"""Points of the Sobol design; fixed, so that a study continued with more trials replays what it did."""
FINISHING_SHARE = 0.2
"""Of the trials, for each of the two last stages."""
MIN_TRIALS_TO_FINISH = 20


class Proposer(Protocol):
    """Suggests configurations and learns what they cost."""

    def ask(self, count: int) -> list[F64]:
        """Up to `count` new configurations; fewer when the space holds no more."""

    def tell(self, vector: F64, costs: Sequence[float]) -> None:
        """What a configuration cost."""

    def close(self) -> None:
        """Let go of what was held."""


class RandomProposer:
    """Uniform over the legal configurations: the baseline at equal budget."""

    def __init__(self, candidates: Candidates, seed: int) -> None:
        self._candidates = candidates
        self._rng = np.random.default_rng(seed)

    def ask(self, count: int) -> list[F64]:
        suggested: list[F64] = []
        while len(suggested) < count and (vector := self._candidates.random(self._rng)) is not None:
            self._candidates.take(vector)
            suggested.append(vector)
        return suggested

    def tell(self, vector: F64, costs: Sequence[float]) -> None:
        """Nothing is learned."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A configuration to run, and who proposed it."""

    origin: str
    settings: Settings


class Runner:
    """Runs proposals in the simulator and puts each on disk when it ends; those on disk already are not run again."""

    def __init__(self, study: Study, run_all: RunAll, on_trial: Callable[[Trial, int], None]) -> None:
        self._study = study
        self._run_all = run_all
        self._on_trial = on_trial
        self._known = {trial.key: trial for trial in study.trials("simulation")}
        self._done: dict[str, Trial] = {}

    def run(self, proposals: Sequence[Proposal]) -> list[Trial]:
        """The trials of `proposals`, in their order; `on_trial` hears of each, with the number done so far."""
        missing = [p for p in proposals if settings_key(p.settings) not in self._known]
        outcomes = self._run_all([proposal.settings for proposal in missing])
        for proposal in proposals:
            key = settings_key(proposal.settings)
            if key not in self._known:
                self._known[key] = trial_of(proposal.settings, next(outcomes), origin=proposal.origin)
                self._study.add(self._known[key])
            self._done[key] = self._known[key]
            self._on_trial(self._known[key], self.done)
        return [self._known[settings_key(proposal.settings)] for proposal in proposals]

    @property
    def done(self) -> int:
        """Number of configurations that this search has asked for."""
        return len(self._done)

    def asked_for(self, settings: Settings) -> bool:
        """Whether this search has asked for these settings."""
        return settings_key(settings) in self._done

    def trials(self) -> list[Trial]:
        """What this search has asked for, in order."""
        return list(self._done.values())


class Search:
    """One search over a space with a budget of trials."""

    def __init__(
        self, candidates: Candidates, objective: Objective, proposer: Proposer, runner: Runner, trials: int
    ) -> None:
        self._candidates = candidates
        self._objective = objective
        self._proposer = proposer
        self._runner = runner
        self._trials = trials

    @property
    def reference(self) -> Metrics:
        """What goals are measured against."""
        return reference_of(self._runner.trials())

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        return self._candidates.space

    def start(self, others: Sequence[tuple[str, F64]]) -> None:
        """Run the default, then `others`: who proposed it and what."""
        default = self._runner.run([Proposal("default", self.space.settings(self.space.vector({})))])[0]
        self._candidates.take(self.space.vector({}))
        fresh = [(origin, vector) for origin, vector in others if self._take_new(vector)][: self._trials - 1]
        trials = self._runner.run([Proposal(origin, self.space.settings(vector)) for origin, vector in fresh])
        for vector, trial in zip([self.space.vector({}), *(v for _, v in fresh)], [default, *trials], strict=True):
            self._tell(vector, trial)

    def _take_new(self, vector: F64) -> bool:
        if len(self._candidates.legal(vector[None, :])) == 0:
            return False
        self._candidates.take(vector)
        return True

    def suggest(self, origin: str, until: int) -> None:
        """Go on in batches until `until` trials are done or the space holds no more."""
        while (left := until - self._runner.done) > 0:
            vectors = self._proposer.ask(min(BATCH, left))
            proposals = [Proposal(origin, self.space.settings(vector)) for vector in vectors]
            for vector, trial in zip(vectors, self._runner.run(proposals), strict=True):
                self._tell(vector, trial)
            if len(vectors) < min(BATCH, left):
                return

    def _tell(self, vector: F64, trial: Trial) -> None:
        if self.space.is_allowed(vector):
            self._candidates.forest.tell(vector, trial.metrics is not None)
            self._proposer.tell(vector, self._objective.costs(trial.metrics, self.reference))

    def best(self) -> Trial | None:
        """The best of what this search has run so far: the same whether or not it is continued."""
        return recommended(self._runner.trials(), self._objective, self.space, self.reference)

    def run(self, others: Sequence[tuple[str, F64]], origin: str, *, finish: bool = True) -> None:
        """The whole search, `others` being what to run first after the default.

        `finish` keeps trials for the last stages; with several goals there is no one winner to finish.
        """
        finish = finish and self._trials >= MIN_TRIALS_TO_FINISH and len(self._objective.goals) < 2
        finishing = int(self._trials * FINISHING_SHARE) if finish else 0
        self.start(others)
        self.suggest(origin, self._trials - 2 * finishing)
        if finishing:
            self.simplify(self._trials - finishing)
            self.polish(self._trials)
        self.suggest(origin, self._trials)

    def polish(self, until: int) -> None:
        """Move the winner to the next value of one knob, the best there is, for as long as that makes it better."""
        best = self.best()
        while best is not None and self._runner.done < until:
            variants = self._next_to(best)[: until - self._runner.done]
            if not variants:
                return
            self._try("neighbour", variants)
            best, before = self.best(), best
            if best is before:
                return

    def _try(self, origin: str, variants: Sequence[Settings]) -> list[Trial]:
        """Run what was not proposed by the proposer, and let it know."""
        fresh = [not self._runner.asked_for(settings) for settings in variants]
        trials = self._runner.run([Proposal(origin, settings) for settings in variants])
        for settings, trial, new in zip(variants, trials, fresh, strict=True):
            if new:
                self._candidates.take(self.space.vector(settings))
                self._tell(self.space.vector(settings), trial)
        return trials

    def _next_to(self, trial: Trial) -> list[Settings]:
        """Settings one value up or down in one knob that were not run yet; first of the knobs that the trial changes,
        since what `simplify` leaves of its changes has an effect."""
        here, sizes = self.space.vector(trial.settings), self.space.sizes()
        changed = self.space.changes(trial.settings)
        order = sorted(range(len(here)), key=lambda knob: self.space.knobs[knob].name not in changed)
        moves = np.eye(len(here))[order].repeat(2, axis=0) * np.tile([1, -1], len(here))[:, None]
        moved = (here + moves)[np.all((here + moves >= 0) & (here + moves < sizes), axis=1)]
        fresh = self._candidates.accepted(self._candidates.legal(self.space.repaired(moved)))
        near = [self.space.settings(vector) for vector in fresh]
        return [settings for settings in near if not self._runner.asked_for(settings)]

    def simplify(self, until: int) -> None:
        """Set the winner's changes back to the default, one by one and then together, as long as nothing is lost."""
        winner = plainest = self.best()
        while winner is not None and plainest is not None and self._runner.done < until:
            variants = self._plainer(plainest)[: until - self._runner.done]
            trials = self._try("simpler", variants)
            good = [t for t in trials if as_good(t, winner, self._objective, self.reference)]
            if not good:
                return
            plainest = self._together(winner, plainest, good, until)

    def _plainer(self, trial: Trial) -> list[Settings]:
        """The settings with one change taken back, where that is allowed."""
        changed = self.space.changes(trial.settings)
        variants = [{k: v for k, v in trial.settings.items() if k != name} for name in changed]
        return [v for v in variants if self._permitted(v)]

    def _permitted(self, settings: Settings) -> bool:
        vector = self.space.vector(settings)
        return self.space.is_allowed(vector) and not self._candidates.refused(vector)

    def _together(self, winner: Trial, plainest: Trial, good: Sequence[Trial], until: int) -> Trial:
        """All harmless steps back at once if that is as good, otherwise the best of the single ones."""
        common = set.intersection(*[set(trial.settings) for trial in good])
        settings = {name: value for name, value in plainest.settings.items() if name in common}
        if len(good) > 1 and self._runner.done < until and self._permitted(settings):
            trial = self._try("simpler", [settings])[0]
            if as_good(trial, winner, self._objective, self.reference):
                return trial
        return min(good, key=lambda trial: sum(self._objective.costs(trial.metrics, self.reference)))
