"""The recommendation: as good as the best, and no stranger than it must be."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.slo import Slo
from slotune.tuner.objective import Goal, Objective
from slotune.tuner.study.ranking import as_good, pareto_front, recommended, reference_of, unlike
from slotune.tuner.study.space import build_space
from slotune.tuner.study.study import Trial

SPACE = build_space(EngineConfig(num_gpu_blocks=1000, max_model_len=8192), {})
OBJECTIVE = Objective((Slo(99.0, "ttft", 500.0),))


def trial(ttft, tpot=10.0, number=None, **settings):
    metrics = {"completed": 100.0, "failed": 0.0, "p99_ttft_ms": ttft, "p99_tpot_ms": tpot}
    return Trial(settings, metrics if ttft else None, None if ttft else "oom", number=number)


def test_ties_go_to_fewer_changes():
    plain, odd = trial(309.0, max_num_seqs=64), trial(300.0, max_num_seqs=64, block_size=32)
    assert recommended([odd, plain], OBJECTIVE, SPACE, {}) is plain


def test_what_cannot_run_is_like_nothing_but_itself():
    runs, fails = trial(300.0), trial(None, max_num_seqs=64)
    assert list(unlike([fails, runs, fails], [], OBJECTIVE)) == [fails, runs]
    assert list(unlike([fails], [runs], OBJECTIVE)) == [fails] and list(unlike([runs], [fails], OBJECTIVE)) == [runs]


def test_more_than_a_tie_wins():
    plain, better = trial(311.0), trial(300.0, max_num_seqs=64, block_size=32)
    assert recommended([plain, better], OBJECTIVE, SPACE, {}) is better


def test_a_near_miss_is_no_tie():
    missed, met = trial(501.0), trial(499.0, max_num_seqs=64)
    assert recommended([missed, met], OBJECTIVE, SPACE, {}) is met


def test_the_nearest_miss_where_nothing_meets():
    assert (
        recommended([trial(900.0), trial(700.0, max_num_seqs=64)], OBJECTIVE, SPACE, {}).metrics["p99_ttft_ms"] == 700
    )


def test_goals_tie_within_one_per_cent():
    objective = Objective((Slo(99.0, "ttft", 500.0),), (Goal("p99_tpot_ms", False),))
    worse, tied, best = trial(400.0, 10.2), trial(400.0, 10.05), trial(100.0, 10.0, block_size=32)
    assert recommended([worse, best], objective, SPACE, worse.metrics) is best
    assert recommended([tied, best], objective, SPACE, worse.metrics) is tied


def test_nothing_ran():
    assert recommended([trial(None)], OBJECTIVE, SPACE, {}) is None


def test_the_front_holds_no_beaten_and_no_double():
    objective = Objective((Slo(99.0, "ttft", 500.0),), (Goal("p99_ttft_ms", False), Goal("p99_tpot_ms", False)))
    fast, steady = trial(100.0, 30.0, block_size=32), trial(200.0, 20.0, block_size=64)
    double = trial(100.0, 30.0, block_size=32, max_num_seqs=64)
    beaten, misses = trial(210.0, 25.0), trial(600.0, 1.0)
    front = pareto_front([double, fast, steady, beaten, misses], objective, SPACE, trial(300.0, 30.0).metrics)
    assert front == [fast, steady]


def test_the_front_leaves_out_what_noise_speaks_for():
    both = Objective((), (Goal("p99_ttft_ms", False), Goal("output_throughput", True)))

    def at(ttft_ms, tokens_s, **settings):
        one = trial(ttft_ms, **settings)
        return replace(one, metrics={**one.metrics, "output_throughput": tokens_s})

    default, hardly = at(162.0, 1146.0), at(161.8, 1146.0, max_num_seqs=64)
    worthless = at(270.6, 1146.1, block_size=32)
    assert pareto_front([default, hardly, worthless], both, SPACE, default.metrics) == [default]
    better = at(150.0, 1145.9, max_num_seqs=32)
    assert pareto_front([default, hardly, worthless, better], both, SPACE, default.metrics) == [better]


@given(st.lists(st.tuples(*[st.floats(0.98, 1.02)] * 3), min_size=1, max_size=12))
def test_a_front_is_never_empty(values):
    """However near each other many are, they do not beat each other in a circle."""
    goals = tuple(Goal(name, False) for name in ("p99_ttft_ms", "p99_tpot_ms", "mean_ttft_ms"))
    trials = [
        Trial({"max_num_seqs": 8 + n}, dict(zip([g.metric for g in goals], row, strict=True)), number=n)
        for n, row in enumerate(values)
    ]
    assert pareto_front(trials, Objective((), goals), SPACE, trials[0].metrics)


def test_far_from_the_default_nothing_is_a_tie_that_is_none():
    goal = Objective((), (Goal("p99_ttft_ms", False),))
    default, good, best = trial(1642.0), trial(56.0, max_num_seqs=64), trial(30.5, max_num_seqs=64, block_size=32)
    assert recommended([default, good, best], goal, SPACE, default.metrics) is best
    both = Objective((), (Goal("p99_ttft_ms", False), Goal("p99_tpot_ms", False)))
    quick, quicker = trial(50.0, 20.0, max_num_seqs=64), trial(20.0, 20.5, max_num_seqs=32)
    assert pareto_front([quick, quicker], both, SPACE, default.metrics) == [quicker, quick]


def test_where_both_miss_one_per_cent_is_a_tie_and_more_lost_requests_are_none():
    best, near, far = trial(700.0), trial(706.0), trial(708.0)  # within 707
    assert as_good(near, best, OBJECTIVE, {}) and not as_good(far, best, OBJECTIVE, {})
    lossy = replace(near, metrics={**near.metrics, "completed": 99.5, "failed": 0.5, "p99_ttft_ms_of_all": 706.0})
    assert not as_good(lossy, best, OBJECTIVE, {})
    assert not as_good(trial(None), best, OBJECTIVE, {}) and not as_good(best, trial(None), OBJECTIVE, {})


def test_a_queue_is_no_tie():
    def at(ttft, rate):
        one = trial(ttft)
        return replace(one, metrics={**one.metrics, "request_throughput": rate})

    best, queueing, default = at(300.0, 10.0), at(301.0, 5.0), at(400.0, 10.0)
    assert not as_good(queueing, best, OBJECTIVE, default.metrics)
    assert as_good(queueing, best, OBJECTIVE, {}), "nothing tells that it is a queue"
    assert as_good(queueing, at(300.0, 5.0), OBJECTIVE, default.metrics), "the best has it, too"


def test_a_tie_is_one_in_every_goal():
    both = Objective((), (Goal("p99_ttft_ms", False), Goal("p99_tpot_ms", False)))
    best = trial(100.0, 10.0)
    assert as_good(trial(100.9, 10.09), best, both, {})
    assert not as_good(trial(100.9, 10.11), best, both, {}) and not as_good(trial(101.1, 10.09), best, both, {})
    assert as_good(trial(100.9, 10.0), replace(best, metrics={**best.metrics, "p99_tpot_ms": math.nan}), both, {})
    lossy = replace(best, metrics={**best.metrics, "completed": 90.0, "failed": 10.0})
    assert not as_good(lossy, best, both, {})


def test_goals_are_measured_against_the_first_that_ran():
    first, second = trial(100.0), trial(200.0)
    assert reference_of([trial(None), first, second]) == first.metrics
    assert reference_of([trial(None)]) == {}


def test_of_three_goals_each_may_be_worse_by_half_a_tie():
    three = Objective((), tuple(Goal(name, False) for name in ("p99_ttft_ms", "p99_tpot_ms", "mean_ttft_ms")))

    def at(ttft, tpot, mean, **settings):
        one = trial(ttft, tpot, **settings)
        return replace(one, metrics={**one.metrics, "mean_ttft_ms": mean})

    plain = at(100.0, 10.0, 30.0)
    hardly_worse, worse = at(98.0, 10.04, 30.0, max_num_seqs=64), at(98.0, 10.07, 30.0, max_num_seqs=64)
    assert pareto_front([plain, hardly_worse], three, SPACE, plain.metrics) == [hardly_worse]
    assert pareto_front([plain, worse], three, SPACE, plain.metrics) == [worse, plain]
    other = at(100.0, 11.0, 20.0, max_num_seqs=64)
    assert set(map(id, pareto_front([plain, other], three, SPACE, plain.metrics))) == {id(plain), id(other)}


def test_those_that_leave_more_unanswered_than_the_default_are_not_on_the_front():
    both = Objective((), (Goal("p99_ttft_ms", False), Goal("p99_tpot_ms", False)))
    default, fast = trial(100.0), trial(10.0, 1.0, max_num_seqs=64)
    lossy = replace(fast, metrics={**fast.metrics, "completed": 90.0, "failed": 10.0})
    assert pareto_front([default, lossy], both, SPACE, default.metrics) == [default]
    assert pareto_front([default, fast], both, SPACE, default.metrics) == [fast]


def test_predictions_within_half_a_per_cent_are_alike():
    known = trial(300.0)
    near, above, below = (trial(ttft, max_num_seqs=8 * n) for n, ttft in enumerate((301.4, 301.6, 298.4), 1))
    failed = trial(None, max_num_seqs=64)
    assert list(unlike([near, above, below, failed], [known], OBJECTIVE)) == [above, below, failed]
    assert list(unlike([near, above], [known], OBJECTIVE, within=0.004)) == [near]
    assert list(unlike([trial(None)], [known], OBJECTIVE)) == [], "the same settings"


def test_what_neither_has_is_alike_and_what_only_one_has_is_not():
    tpot = Objective((Slo(99.0, "tpot", 50.0),))
    known, none, value = trial(300.0, math.nan), trial(300.0, math.nan, max_num_seqs=8), trial(300.0, max_num_seqs=16)
    assert list(unlike([none, value], [known], tpot)) == [value]
