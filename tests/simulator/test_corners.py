"""Corners in which a simulation once said something else than vLLM: what fails, what is refused, who is first."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.simulator.misses import reasons
from slotune.simulator.request_table import FAILED, FINISHED, REJECTED
from slotune.simulator.simulation import simulate
from slotune.simulator.speculation import Speculation
from slotune.simulator.step_time import linear_model
from slotune.simulator.timing import Overhead, Timing
from slotune.tests.simulator.runs import TIMING, Run, Setup, make_trace, plain_engine, run


def rows(made: Run) -> list[list[tuple[str, int, int]]]:
    return [list(step.rows) for step in made.steps]


def test_what_fits_without_its_drafts_is_preempted_and_goes_on() -> None:
    """265 tokens in 17 usable blocks of 16; with eight drafts and as many slots of lookahead they do not fit."""
    drafting = Speculation("eagle", 8, (0.0,) * 8)
    engine = plain_engine(num_gpu_blocks=18, max_model_len=2048, max_num_batched_tokens=100, max_num_seqs=24)
    made = run(Setup(make_trace([0.0], [250], [15]), replace(engine, speculative_config=drafting)))
    assert made.result.requests.status.tolist() == [FINISHED]
    assert made.result.requests.output_tokens.tolist() == [15]
    assert made.result.requests.preemptions.tolist() == [8]


def test_a_prompt_that_may_not_be_chunked_is_cut_by_the_threshold_before_it_is_held_against_the_budget() -> None:
    engine = plain_engine(
        enable_chunked_prefill=False,
        max_model_len=200,
        max_num_batched_tokens=200,
        max_num_scheduled_tokens=140,
        long_prefill_token_threshold=81,
        max_num_seqs=16,
    )
    made = run(Setup(make_trace([0.00939, 0.010416], [1, 177], [2, 1]), engine))
    assert rows(made)[:3] == [[("0", 1, 0)], [("0", 1, 1), ("1", 81, 0)], [("1", 96, 81)]]
    assert made.result.requests.status.tolist() == [FINISHED, FINISHED]


def test_a_prompt_that_never_fits_into_one_step_fails_when_all_else_is_done() -> None:
    engine = plain_engine(
        enable_chunked_prefill=False,
        max_model_len=200,
        max_num_batched_tokens=200,
        max_num_scheduled_tokens=100,
        max_num_seqs=16,
    )
    made = run(Setup(make_trace([0.0, 0.001, 0.002], [10, 150, 10], [5, 5, 5]), engine))
    assert made.result.requests.status.tolist() == [FINISHED, FAILED, FINISHED]
    first, _, last = made.result.requests.finish_s.tolist()
    assert last > first  # it stood behind the one that does not fit


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_arrival_at_the_end_of_a_step_is_in_the_next_one_at_any_time_of_a_run(asynchronous: bool) -> None:
    """Steps of 10 ms, and an arrival each 100 ms in the middle of an answer or at the end of one."""
    trace = make_trace([0.1 * k for k in range(1000)], [10] * 1000, [50] * 1000)
    made = run(Setup(trace, plain_engine(async_scheduling=asynchronous)), Timing(linear_model(0.01, 0.0, 0.0, 0.0)))
    steps = np.rint(made.result.requests.ttft_s / 0.01)
    assert made.result.requests.ttft_s == pytest.approx(0.01 * steps, abs=1e-9)
    assert set(steps[1:]) == {2.0 if asynchronous else 1.0}


def test_requests_without_names_that_arrive_together_are_served_in_the_order_of_the_trace() -> None:
    """Not 0, 1, 10, 11, 2: a name that nobody gave tells no order."""
    engine = plain_engine(max_num_seqs=1, scheduling_policy="priority")
    trace = replace(make_trace([0.0] * 12, [20] * 12, [1] * 12), request_id=None)
    made = run(Setup(trace, engine))
    assert np.argsort(made.result.requests.first_token_s, kind="stable").tolist() == list(range(12))


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_client_that_waits_is_served_in_the_order_of_its_sendings(policy: str) -> None:
    """Thirty equal requests, all at once, four under way: `10` is no earlier than `9`."""
    engine = plain_engine(max_num_seqs=1, scheduling_policy=policy)
    setup = Setup(make_trace([0.0] * 30, [20] * 30, [3] * 30), engine, max_concurrency=4)
    finish_s = run(setup).result.requests.finish_s
    assert np.all(np.diff(finish_s[4:]) > 0)
    assert finish_s[4:].min() > finish_s[:4].max()


def test_of_equal_priorities_the_first_at_the_server_is_first_however_long_its_tokenising_takes() -> None:
    """vLLM stamps a request before it tokenises it."""
    engine = plain_engine(max_num_seqs=1, scheduling_policy="priority", num_gpu_blocks=5000)
    trace = make_trace([0.0, 0.1, 0.11], [500, 60_000, 100], [300, 1, 1])
    timing = Timing(TIMING.step, Overhead(before_s=0.005, before_token_s=2e-6, after_s=0.001))
    long, short = simulate(trace, engine, timing).requests.first_token_s[1:]
    assert long < short


@pytest.mark.parametrize("max_concurrency", [None, 2])
def test_the_way_to_the_engine_and_back_lies_around_its_steps(max_concurrency: int | None) -> None:
    timing = Timing(TIMING.step, Overhead(before_s=0.005, before_token_s=2e-6, after_s=0.001))
    trace = make_trace([0.0, 1.0], [1000, 500], [3, 3])
    made = run(Setup(trace, plain_engine(), max_concurrency=max_concurrency), timing)
    done, steps = made.result.requests, made.steps
    starts_s, ends_s = (np.array([getattr(step, name) for step in steps]) for name in ("start_s", "end_s"))
    assert starts_s[[0, 3]] == pytest.approx([0.005 + 0.002, 1.0 + 0.005 + 0.001])
    assert done.first_token_s == pytest.approx(ends_s[[0, 3]] + 0.001)
    assert done.finish_s == pytest.approx(ends_s[[2, 5]] + 0.001)


def test_load_is_shed_by_what_is_under_way_when_a_request_arrives() -> None:
    """The first request is done by the end of a step that is under way when the second one comes."""
    engine = plain_engine(max_num_queued_reqs=1)
    made = run(Setup(make_trace([0.0, 0.003], [100, 100], [1, 1]), engine))
    assert made.steps[0].end_s > 0.003
    assert made.result.requests.status.tolist() == [FINISHED, REJECTED]
    later = run(Setup(make_trace([0.0, made.steps[0].end_s + 1e-6], [100, 100], [1, 1]), engine))
    assert later.result.requests.status.tolist() == [FINISHED, FINISHED]


def test_requests_that_preempt_each_other_for_ever_fail_and_the_others_are_served() -> None:
    """Of equal priority and arrival vLLM preempts the first, which comes back first."""
    engine = plain_engine(
        max_model_len=600,
        max_num_seqs=2,
        scheduling_policy="priority",
        scheduler_reserve_full_isl=False,
        max_num_batched_tokens=64,
        long_prefill_token_threshold=32,
        num_gpu_blocks=36,
    )
    together = run(Setup(make_trace([0.0] * 3, [512] * 3, [2] * 3), engine))
    assert sorted(together.result.requests.status.tolist())[0] == FINISHED
    assert FAILED in together.result.requests.status
    apart = run(Setup(make_trace([0.0, 1e-6, 2e-6], [512] * 3, [2] * 3), engine))
    assert apart.result.requests.status.tolist() == [FINISHED] * 3


def test_requests_that_no_cache_could_hold_take_no_memory() -> None:
    """A thousand seats with a block table for such a prompt are 233 GiB, for such an answer 442."""
    engine = plain_engine(enable_prefix_caching=True, max_model_len=1 << 31, max_num_seqs=1000, num_gpu_blocks=100)
    trace = make_trace([0.01 * i for i in range(1000)], [10**9, 16, *[16] * 998], [1, 1_900_000_000, *[1] * 998])
    status = simulate(trace, engine, TIMING).requests.status.tolist()
    assert status == [REJECTED, FAILED, *[FINISHED] * 998]


def test_an_answer_that_is_longer_than_any_may_be_is_refused_and_one_that_meets_the_limit_is_cut() -> None:
    """vLLM 0.32 compares max_tokens alone with max_model_len (vllm/renderers/params.py), and then lets in what fits."""
    made = run(Setup(make_trace([0.0, 0.0, 0.0], [50] * 3, [129, 128, 78]), plain_engine(max_model_len=128)))
    assert made.result.requests.status.tolist() == [REJECTED, FINISHED, FINISHED]
    assert made.result.requests.output_tokens.tolist() == [0, 78, 78]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"arrival_s": np.array([0.0, 2.0, 1.0])}, "must be finite, not negative and in order"),
        ({"arrival_s": np.array([-1.0, 0.0, 1.0])}, "must be finite, not negative and in order"),
        ({"arrival_s": np.array([0.0, 1.0, np.nan])}, "must be finite, not negative and in order"),
        ({"output_tokens": np.array([4, 0, 4], np.int32)}, "without prompt or output tokens"),
        ({"input_tokens": np.array([0, 9, 9], np.int32)}, "without prompt or output tokens"),
    ],
)
def test_a_trace_that_cannot_be_is_refused(change: dict[str, Any], told: str) -> None:
    """Out of order, two replicas had a mean TTFT of 3.8 s in place of 44 ms."""
    trace = replace(make_trace([0.0, 1.0, 2.0], [9] * 3, [9] * 3), **change)
    with pytest.raises(InputError, match=told):
        simulate(trace, plain_engine(num_gpu_blocks=100), TIMING)


def test_a_request_that_outgrows_the_cache_alone_is_told_to_hold_up_vllm_where_here_others_go_on() -> None:
    engine = plain_engine(num_gpu_blocks=10, block_size=16)
    made = run(Setup(make_trace([0.0, 0.001], [20, 100], [500, 3]), engine))
    assert made.result.requests.status.tolist() == [FAILED, FINISHED]
    (told,) = reasons(made.result.requests, np.array([500, 3]), engine, "vllm-v1")
    assert told.startswith("1 outgrew the KV cache (vLLM's queue would stand still behind one that does so alone)")
