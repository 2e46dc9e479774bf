"""The search finds the optimum of a known landscape, the same way whatever runs it, and wastes nothing it knew."""

from functools import partial

import numpy as np
import pytest

from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.slo import Slo
from slotune.tuner.evaluate import Outcome
from slotune.tuner.objective import FAILED, Objective
from slotune.tuner.search.candidates import Candidates
from slotune.tuner.search.feasibility import FeasibilityForest
from slotune.tuner.search.search import DESIGN, RandomProposer, Runner, Search
from slotune.tuner.search.smac_search import SmacProposer
from slotune.tuner.search.start import sobol_design
from slotune.tuner.study.ranking import HEADROOM_TIE
from slotune.tuner.study.space import build_space
from slotune.tuner.study.study import Asked, Study, Versions

DEFAULT = EngineConfig(num_gpu_blocks=10_000, max_model_len=8192)
SPACE = build_space(DEFAULT, {})
BUDGETS, SEQS = (
    next(knob.values for knob in SPACE.knobs if knob.name == name)
    for name in ("max_num_batched_tokens", "max_num_seqs")
)
OBJECTIVE = Objective((Slo(99.0, "ttft", 1000.0), Slo(99.0, "tpot", 50.0)))
ASKED = Asked(
    profile="p", profile_digest="", trace="t", trace_digest="", versions=Versions(slotune="", smac="", python="")
)


def landscape(settings):
    """TTFT falls and TPOT rises with the token budget; without prefix caching TTFT is worse; the rest does nothing."""
    budget = settings.get("max_num_batched_tokens", 8192)
    ttft = 1e5 / budget + 2e4 / settings.get("max_num_seqs", 1024)
    ttft += 0 if settings.get("enable_prefix_caching", True) else 100
    return Outcome({"completed": 100.0, "failed": 0.0, "p99_ttft_ms": ttft, "p99_tpot_ms": 5 + budget * 0.02})


def searched(folder, trials, *, optimizer=SmacProposer, seed=0, evaluate=landscape, refuses=lambda settings: False):
    calls = []

    def counted(settings):
        calls.append(settings)
        return evaluate(settings)

    candidates = Candidates(SPACE, refuses, FeasibilityForest(seed))
    proposer = optimizer(candidates, seed)
    with Study.create(folder, ASKED) as study:
        runner = Runner(study, partial(map, counted), lambda trial, done: None)
        search = Search(candidates, OBJECTIVE, proposer, runner, trials)
        search.run([("sobol", vector) for vector in sobol_design(candidates, DESIGN, seed)], "smac")
        kept = [(trial.settings, trial.origin) for trial in study.trials()]
    proposer.close()
    return search.best(), kept, calls


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("whole") / "s", 60)


def test_finds_the_optimum_and_says_it_plainly(whole):
    best, kept, _ = whole
    pairs = [(b, s) for b in BUDGETS for s in SEQS if s <= b]
    grid = [landscape({"max_num_batched_tokens": b, "max_num_seqs": s}).metrics for b, s in pairs]
    assert OBJECTIVE.worst_ratio(best.metrics) <= min(map(OBJECTIVE.worst_ratio, grid)) + HEADROOM_TIE
    assert set(best.settings) <= {"max_num_batched_tokens", "max_num_seqs"}
    assert len(kept) == 60


def test_starts_with_the_default_and_a_design(whole):
    _, kept, _ = whole
    assert [origin for _, origin in kept[: DESIGN + 2]] == ["default"] + ["sobol"] * DESIGN + ["smac"]
    assert kept[0][0] == {}


def test_no_configuration_runs_twice(whole):
    _, kept, calls = whole
    assert [settings for settings, _ in kept] == calls
    assert len({str(sorted(settings.items())) for settings in calls}) == len(calls)


def test_same_seed_same_trials_other_seed_others(whole, tmp_path):
    assert searched(tmp_path / "same", 60)[1] == whole[1]
    assert searched(tmp_path / "other", 24, seed=1)[1] != whole[1][:24]


def test_an_interrupted_search_goes_on_and_ends_the_same(whole, tmp_path):
    class Killed(BaseException):
        pass

    left = iter(range(25))

    def dies(settings):
        if next(left, None) is None:
            raise Killed
        return landscape(settings)

    with pytest.raises(Killed):
        searched(tmp_path / "s", 60, evaluate=dies)
    _, kept, calls = searched(tmp_path / "s", 60)
    assert kept == whole[1]
    assert len(calls) == 60 - 25


def test_a_study_asked_for_more_keeps_what_it_knew(whole, tmp_path):
    searched(tmp_path / "s", 30)
    best, kept, calls = searched(tmp_path / "s", 60)
    assert len(calls) < 60
    assert OBJECTIVE.worst_ratio(best.metrics) <= OBJECTIVE.worst_ratio(whole[0].metrics) * 1.05
    assert len(kept) == len({str(sorted(settings.items())) for settings, _ in kept})


def test_failures_are_kept_and_avoided(tmp_path):
    def fails(settings):
        if settings.get("block_size") == 64:
            return Outcome(None, "oom", "out of memory")
        return landscape(settings)

    best, kept, _ = searched(tmp_path / "s", 48, evaluate=fails)
    suggested = [settings for settings, origin in kept if origin == "smac"]
    assert best.metrics is not None
    assert sum(settings.get("block_size") == 64 for settings in suggested) < len(suggested) / 4


def test_what_the_engine_is_known_to_refuse_is_never_proposed(tmp_path):
    def refuses(settings):
        return settings.get("gpu_memory_utilization", 0.92) < 0.92 or "block_size" in settings

    for optimizer in (SmacProposer, RandomProposer):
        _, kept, _ = searched(tmp_path / optimizer.__name__, 40, optimizer=optimizer, refuses=refuses)
        assert not any(refuses(settings) for settings, _ in kept)


@pytest.mark.parametrize("optimizer", [SmacProposer, RandomProposer])
def test_a_small_space_is_searched_out_and_no_more(optimizer):
    fixed = {
        knob.name: knob.default for knob in SPACE.knobs if knob.name not in ("block_size", "enable_prefix_caching")
    }
    candidates = Candidates(build_space(DEFAULT, fixed), lambda settings: False, FeasibilityForest(0))
    proposer = optimizer(candidates, 0)
    default = candidates.space.vector(fixed)
    candidates.take(default)
    proposer.tell(default, (0.0,))
    found = []
    while vectors := proposer.ask(4):
        found += vectors
        for vector in vectors:
            proposer.tell(vector, (float(vector.sum()),))
    proposer.close()
    assert len(found) == 5
    assert len({vector.tobytes() for vector in found}) == 5


def test_smac_copes_with_ties_failures_and_several_objectives():
    candidates = Candidates(SPACE, lambda settings: False, FeasibilityForest(0))
    proposer = SmacProposer(candidates, 0, 2)
    for round_number in range(3):
        for index, vector in enumerate(proposer.ask(6)):
            assert SPACE.allowed(vector[None, :])[0]
            proposer.tell(vector, (FAILED, FAILED) if index % 2 else (1.0, float(round_number)))
    proposer.close()


def test_the_sobol_design_is_whole_although_most_points_are_forbidden():
    candidates = Candidates(SPACE, lambda settings: False, FeasibilityForest(0))
    design = np.array(sobol_design(candidates, 20, 3))
    assert len(np.unique(design, axis=0)) == 20
    assert SPACE.allowed(design).all()
    assert np.array_equal(design, np.array(sobol_design(candidates, 20, 3)))


def test_the_last_stage_moves_first_what_the_winner_changes(tmp_path):
    """A handful of trials is left for it, and moves of knobs without effect would use them up."""
    _, kept, _ = searched(tmp_path / "study", 24)
    winner = next(settings for settings, origin in kept if origin == "neighbour")
    moved = [settings for settings, origin in kept if origin == "neighbour"]
    assert len(moved) <= 4 and all("max_num_batched_tokens" in settings for settings in moved[:2]), winner
