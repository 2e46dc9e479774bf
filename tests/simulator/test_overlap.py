"""Asynchronous scheduling hides the scheduler, not the work: where nothing is scarce the schedule is the same."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotune.tests.simulator.runs import Run, Setup, make_trace, plain_engine, run
from slotune.tests.simulator.test_invariants import MANY

LENGTHS = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 30)), min_size=1, max_size=8)


@MANY
@given(LENGTHS, st.sampled_from([16, 64, 512]))
def test_with_room_for_all_it_makes_the_same_steps(lengths: list[tuple[int, int]], budget: int) -> None:
    trace = make_trace([0.0] * len(lengths), [prompt for prompt, _ in lengths], [output for _, output in lengths])
    limits = {"max_num_batched_tokens": budget, "max_num_seqs": 8}
    waiting, overlapping = (
        run(Setup(trace, plain_engine(async_scheduling=value, **limits))) for value in (False, True)
    )
    assert rows(waiting) == rows(overlapping)
    assert (waiting.result.requests.finish_s == overlapping.result.requests.finish_s).all()


def test_a_finished_request_keeps_its_seat_and_blocks_for_one_more_step() -> None:
    """Step N + 1 is scheduled before the end of step N is known (Scheduler.schedule, vLLM's AsyncScheduler)."""
    trace = make_trace([0.0, 0.0], [16, 16], [2, 3])
    limits = {"max_num_seqs": 1, "max_num_batched_tokens": 64}
    waiting, overlapping = (
        run(Setup(trace, plain_engine(async_scheduling=value, **limits))) for value in (False, True)
    )
    assert [names for _, names in rows(waiting)] == [["0"], ["0"], ["1"], ["1"], ["1"]]
    assert rows(waiting) == rows(overlapping)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_lone_request_passes_all_stages_before_its_next_token(stages: int) -> None:
    """However many steps are scheduled ahead (PPHandler in vllm/v1/worker/gpu/pp_utils.py)."""
    trace = make_trace([0.0, 0.0], [16, 16], [5, 5])
    waiting, overlapping = (
        run(Setup(trace, plain_engine(async_scheduling=value, pipeline_parallel_size=stages, max_num_seqs=4)))
        for value in (False, True)
    )
    steps = [step for step in overlapping.steps if step.rows]
    assert len(steps) == 5 and all(after.start_s == before.end_s for before, after in pairwise(steps))
    assert (waiting.result.requests.finish_s == overlapping.result.requests.finish_s).all()


def rows(made: Run) -> list[tuple[float, list[str]]]:
    return [(step.start_s, [name for name, _, _ in step.rows]) for step in made.steps]
