"""The proof: the best configurations of a study and the default on the real engine, interleaved and repeated.

A machine drifts, so every round runs every configuration once, in an order that changes from round to round, and
configurations are compared within rounds. Each run is put in the study when it ends; a validation that was killed goes
on where it was. A configuration that fails is kept with its reason, and the next best takes its place; where the
failure may be nobody's fault (study/blame.py), only once a later round has brought it again.
"""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

from ..errors import InputError
from ..profiler.engine.launch import Launch, find_vllm
from ..profiler.model_folder import lasting_name
from ..profiler.profile import Profile
from ..simulator.settings import Settings
from .conclusion import concluded
from .hardware.campaign import Campaign, Round, Run, Watch
from .hardware.engine_run import EngineRun, model_to_serve
from .hardware.shortlist import promising, shortlist
from .hardware.validation import Validation, failure_lines, validation_of
from .recommendation import best_yaml_of
from .study.deployment import drafter_note
from .study.study import BEST_FILE, Asked, Study, settings_key
from .study.task import Task, load_task

MOST_IN_VAIN = 3
"""Replacements: where so many fail, what all of them have in common is at fault."""


def validate(
    folder: Path,
    *,
    top: int = 3,
    repeats: int = 3,
    budget_s: float = 0.0,
    vllm_python: str | None = None,
    model: str | None = None,
    watch: Watch = lambda progressed: None,
) -> Validation:
    """Measure the best `top` configurations of the study in `folder` and its default, each `repeats` times.

    Then, while the engine has run for less than `budget_s` in all, go on with whatever the model, corrected by what was
    measured, holds for better by more than the noise. Rewrites best.yaml with what the measurements recommend.

    Raises InputError for a folder that is no study, or one whose runs are of another model or vLLM; EngineError where
    there is no engine to start.
    """
    with Study.open(folder, writable=True) as study:
        task = load_task(study.asked)
        run = EngineRun(*to_start(study.asked, task.profile, vllm_python, model), task.simulated())
        return validated(study, task, run, top=top, repeats=repeats, budget_s=budget_s, watch=watch)


def to_start(asked: Asked, profile: Profile, vllm_python: str | None, model: str | None) -> tuple[Launch, str]:
    """The vLLM to start and the model for it to serve: those that are given or else what this machine and the profile
    tell. Raises InputError for a given one that is none, and for drafts of no drafter, EngineError where there is no
    vLLM."""
    if note := drafter_note(profile, asked.engine):
        raise InputError(note[0])
    return find_vllm(vllm_python), model_to_serve(model, asked.model or profile.engine.model, asked.profile)


def validated(
    study: Study,
    task: Task,
    run: Run,
    *,
    top: int,
    repeats: int,
    budget_s: float = 0.0,
    watch: Watch = lambda progressed: None,
) -> Validation:
    """`validate` on an open study with `run` as the engine."""
    _check_identity(study, run)
    default = dict(study.asked.engine)
    campaign = Campaign(study, run, watch)
    candidates = (settings for settings in shortlist(study, task) if not campaign.is_barred(settings))
    try:
        _measure(campaign, default, list(islice(candidates, top)), candidates, repeats, 0)
        for batch in count(1):
            goes_on = campaign.spent_s() < budget_s and not campaign.lacks_default
            better = promising(study, task, campaign.first_round(batch)) if goes_on else []
            if not better:
                break
            _measure(campaign, default, better[:top], iter(()), repeats, batch)
    finally:  # what was measured before somebody stopped it counts too
        found = _concluded(study, task)
    return found


def _concluded(study: Study, task: Task) -> Validation:
    """What the runs say; best.yaml is what the study recommends by now."""
    found, measured = concluded(study, task), validation_of(study, task)
    written = (study.folder / BEST_FILE).exists()
    if measured.verdict or (written and failure_lines(measured.found)):
        study.write_best(best_yaml_of(found))
    return measured


def _measure(
    campaign: Campaign,
    default: Settings,
    candidates: Sequence[Settings],
    spare: Iterator[Settings],
    repeats: int,
    batch: int,
) -> None:
    """Run rounds until each candidate ran beside the default `repeats` times; one that is barred makes room for the
    next of `spare`. One that comes late runs beside the default again: the machine may have changed since. Without a
    default whose failures may be nobody's fault there are no more rounds."""
    chosen = [settings for settings in (default, *candidates) if not campaign.is_barred(settings)]
    while missing := {settings_key(s): repeats - campaign.compared(s, default) for s in chosen}:
        members = [s for s in chosen if missing[settings_key(s)] > 0]
        if not members or campaign.lacks_default:
            break
        if default in chosen:  # it runs in every round
            missing[settings_key(default)] = max(missing.values())
            members = [default, *(s for s in members if s != default)]
        campaign.expect(sum(max(runs, 0) for runs in missing.values()))
        in_round = campaign.next_round(batch, members)
        for settings in round_order(members, in_round.number):
            campaign.measure(settings, in_round)
        for settings in [settings for settings in members if campaign.is_barred(settings)]:
            chosen.remove(settings)
            if settings != default:
                chosen += _replacement(campaign, spare, in_round)


def _replacement(campaign: Campaign, spare: Iterator[Settings], in_round: Round) -> list[Settings]:
    """The next candidate that is not barred, beginning with this round; empty where none is left, or MOST_IN_VAIN fail
    one after the other."""
    for settings in islice(spare, MOST_IN_VAIN):
        campaign.measure(settings, in_round)
        if not campaign.is_barred(settings):
            return [settings]
    return []


def round_order(configurations: Sequence[Settings], number: int) -> list[Settings]:
    """The order of round `number`: A B C, then C B A, then C A B, then B A C, and so on: rotated every second round and
    turned round in between. By rotation alone B comes right after A in nearly every round, and of equals on a machine
    that steadily gets faster the later ones are proven better."""
    shift = -(number // 2) % len(configurations)
    order = [*configurations[shift:], *configurations[:shift]]
    return order[::-1] if number % 2 else order


def _check_identity(study: Study, run: Run) -> None:
    """Runs of another model or vLLM cannot be compared with new ones."""
    trials = study.trials("hardware")
    identity = run.identity() if trials else {}
    for trial in trials:
        known = {**identity, **trial.details}
        known["model"] = lasting_name(known["model"])
        for name, value in identity.items():
            if known[name] != value:
                raise InputError(
                    f"{study.folder}: measured with {name} {known[name]}, now it is {value}; validate with the same, "
                    "or tune again in a new folder"
                )
