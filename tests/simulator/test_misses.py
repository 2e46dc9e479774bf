"""Why requests were not answered is told in words: each once, by the first reason that struck it."""

from dataclasses import replace

import numpy as np
import pytest

from slotune.simulator.engine_config import UNLIMITED_MODEL_LEN, EngineConfig
from slotune.simulator.misses import answers_cut, cut_short, reasons, unanswered
from slotune.simulator.policy_names import WITHOUT_BUDGET
from slotune.simulator.request_table import FAILED, FINISHED, NOWHERE, REJECTED, RequestTable

ENGINE = EngineConfig(num_gpu_blocks=11, block_size=16, max_model_len=200, max_num_batched_tokens=64, max_num_seqs=4)
"""160 tokens of KV cache beside the block that vLLM keeps."""
WHOLE = replace(ENGINE, enable_chunked_prefill=False, max_num_batched_tokens=200, max_num_scheduled_tokens=64)
LOST = (
    "outgrew the KV cache (vLLM's queue would stand still behind one that does so alone) or preempted each other for "
    "ever"
)
OVER = "have more tokens to compute than the 64 of a step, and may not be chunked"
GROWN = "were preempted, outgrew the 64 tokens of a step with their answers, and may not be chunked"
TURNED_AWAY = "were turned away by max_num_queued_reqs or max_num_queued_tokens"


def table(status: int, prompts: list[int], outputs: list[int] | None = None, replica: int = 0) -> RequestTable:
    count = len(prompts)
    none, never = np.zeros(count, np.int64), np.full(count, np.nan)
    received = none if outputs is None else np.array(outputs)
    where, became = np.full(count, replica), np.full(count, status)
    return RequestTable(np.zeros(count), np.array(prompts), received, none, never, never, none, where, became)


@pytest.mark.parametrize("policy", WITHOUT_BUDGET)
def test_policies_that_reserve_an_answer_s_room_preempt_nothing(policy: str) -> None:
    told = reasons(table(FAILED, [100, 90]), np.array([61, 71]), ENGINE, policy)
    assert told == ["2 need more than the KV cache of 160 tokens, prompt and answer together"]
    assert reasons(table(FAILED, [100, 90]), np.array([61, 71]), ENGINE, "sarathi") == [f"2 {LOST}"]


@pytest.mark.parametrize(
    ("prompts", "asked", "told"),
    [
        ([200, 500], [500, 1], ["2 have prompts of max_model_len=200 tokens or more"]),
        ([199, 10], [201, 201], ["2 ask for more than max_model_len=200 tokens"]),
        ([161, 199], [1, 200], ["2 have prompts larger than the KV cache of 160 tokens"]),
        ([160, 64], [200, 1], [f"2 {TURNED_AWAY}"]),
        (
            [200, 10, 161, 10],
            [1, 300, 1, 1],
            [
                "1 have prompts of max_model_len=200 tokens or more",
                "1 ask for more than max_model_len=200 tokens",
                "1 have prompts larger than the KV cache of 160 tokens",
                f"1 {TURNED_AWAY}",
            ],
        ),
    ],
)
def test_what_is_refused_is_told_by_its_first_reason(prompts: list[int], asked: list[int], told: list[str]) -> None:
    assert reasons(table(REJECTED, prompts), np.array(asked), ENGINE, "vllm-v1") == told
    assert reasons(table(FINISHED, prompts, prompts), np.array(asked), ENGINE, "vllm-v1") == []


def test_where_a_model_s_length_would_make_steps_longer_it_is_asked_for() -> None:
    engine = replace(ENGINE, max_model_len=UNLIMITED_MODEL_LEN, enable_chunked_prefill=False)
    (told,) = reasons(table(REJECTED, [65]), np.ones(1), engine, "vllm-v0")
    assert told == f"1 {OVER} (vLLM raises what a step has to the model's length: give max_model_len)"


def test_vllm_v0_refuses_prompts_that_no_step_takes() -> None:
    refused = table(REJECTED, [65, 64])
    assert reasons(refused, np.ones(2), ENGINE, "vllm-v0") == [f"1 {OVER}", f"1 {TURNED_AWAY}"]
    assert reasons(refused, np.ones(2), ENGINE, "vllm-v1") == [f"2 {TURNED_AWAY}"]


def test_before_0_32_prompt_and_answer_together_were_refused() -> None:
    before = replace(ENGINE, vllm_version="0.31.0")
    together = "have more than max_model_len=200 tokens, prompt and requested answer together"
    found = reasons(table(REJECTED, [100, 100]), np.array([100, 101]), before, "vllm-v1")
    assert found == [f"1 {together}", f"1 {TURNED_AWAY}"]


@pytest.mark.parametrize(
    ("engine", "policy", "told"),
    [
        (ENGINE, "vllm-v1", [f"4 {LOST}"]),
        (WHOLE, "vllm-v1", [f"1 {OVER}", f"1 {GROWN}", f"2 {LOST}"]),
        (ENGINE, "vllm-v0", [f"1 {OVER}", f"1 {GROWN}", f"2 {LOST}"]),
        (WHOLE, "sarathi", [f"4 {LOST}"]),
    ],
)
def test_what_failed_is_told_by_whether_prompts_may_be_chunked(
    engine: EngineConfig, policy: str, told: list[str]
) -> None:
    """Prompts of 65 and 64 tokens without an answer, and of 60 with one of 5 tokens and of 4."""
    failed = table(FAILED, [65, 64, 60, 60], [0, 0, 5, 4])
    assert reasons(failed, np.full(4, 9), engine, policy) == told
    nowhere = replace(failed, replica=np.array([NOWHERE, NOWHERE, 0, 0]))
    assert reasons(nowhere, np.full(4, 9), ENGINE, "vllm-v1") == ["2 came while no replica was up", f"2 {LOST}"]


def test_answers_that_are_cut_are_counted_and_those_that_failed_are_not() -> None:
    asked = np.array([5, 6, 7])
    assert answers_cut(table(FINISHED, [9] * 3, [5, 5, 5]), asked) == 2
    assert answers_cut(table(FAILED, [9] * 3, [5, 5, 5]), asked) == 0
    assert cut_short(table(FINISHED, [9] * 3, [5, 6, 7]), asked, ENGINE) is None
    told = "2 answers are cut at max_model_len=200, shorter than in the trace"
    assert cut_short(table(FINISHED, [9] * 3, [5, 5, 5]), asked, ENGINE) == told


def test_what_is_wrong_with_answers_is_told_of_the_metrics() -> None:
    fine = {"completed": 8_766.0, "failed": 0.0, "answers_cut": 0.0}
    assert unanswered(fine) == unanswered({}) == []
    assert unanswered(fine | {"failed": 1_234.0, "answers_cut": 2_345.0}) == [
        "1,234 of 10,000 requests are not answered, each a miss",
        "2,345 answers are cut at max_model_len: the numbers are for answers shorter than the trace's",
    ]
