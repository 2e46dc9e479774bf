"""Why requests were not answered, in words: what a percentile of the others would hide."""

from collections.abc import Iterator, Mapping

import numpy as np

from .engine_config import UNLIMITED_MODEL_LEN, EngineConfig
from .policy_names import DEFAULT_POLICY, WITHOUT_BUDGET
from .request_table import FAILED, NOWHERE, REJECTED, RequestTable


def reasons(requests: RequestTable, asked_tokens: np.ndarray, engine: EngineConfig, policy: str) -> list[str]:
    """A phrase for each reason, with how many requests it struck; empty where all were answered.

    The rules are those of `_is_refused` in admission.py.
    """
    refused, failed = (np.equal(requests.status, status) for status in (REJECTED, FAILED))
    found, left = [], refused
    for reason, concerned in _refusals(requests, asked_tokens, engine, policy):
        count = int((left & concerned).sum())
        if count:
            found.append(f"{count} {reason}")
        left = left & ~concerned
    whole = policy == "vllm-v0" or (policy == DEFAULT_POLICY and not engine.enable_chunked_prefill)
    if nowhere := int((failed & (requests.replica == NOWHERE)).sum()):
        found.append(f"{nowhere} came while no replica was up")
        failed = failed & (requests.replica != NOWHERE)
    if requests.lost is not None and requests.lost.any():
        found.append(f"{int(requests.lost.sum())} were lost with their replica")
        failed = failed & ~requests.lost
    # Preempted, a request computes its answer anew with its prompt.
    too_long = failed & (requests.prompt_tokens + requests.output_tokens > engine.token_budget) & whole
    whole_prompts = too_long & (requests.prompt_tokens > engine.token_budget)
    if whole_prompts.any():
        found.append(f"{int(whole_prompts.sum())} {_over_budget(engine)}")
    if grown := int((too_long & ~whole_prompts).sum()):
        outgrew = f"outgrew the {engine.token_budget} tokens of a step with their answers, and may not be chunked"
        found.append(f"{grown} were preempted, {outgrew}")
    remaining = int((failed & ~too_long).sum())
    if remaining and policy in WITHOUT_BUDGET:
        found.append(
            f"{remaining} need more than the KV cache of {_cache_tokens(engine)} tokens, prompt and answer together"
        )
    elif remaining:
        held = "vLLM's queue would stand still behind one that does so alone"
        found.append(f"{remaining} outgrew the KV cache ({held}) or preempted each other for ever")
    return found


def cut_short(requests: RequestTable, asked_tokens: np.ndarray, engine: EngineConfig) -> str | None:
    """How many answers are shorter than the trace's because max_model_len ends them; None where none is."""
    cut = answers_cut(requests, asked_tokens)
    return f"{cut} answers are cut at max_model_len={engine.max_model_len}, shorter than in the trace" if cut else None


def answers_cut(requests: RequestTable, asked_tokens: np.ndarray) -> int:
    """How many answers are shorter than the trace's."""
    return int((requests.finished & (requests.output_tokens < asked_tokens)).sum())


def unanswered(metrics: Mapping[str, float]) -> list[str]:
    """What is wrong with a run's answers, where anything is: a sentence each."""
    told = []
    if failed := metrics.get("failed"):
        told.append(f"{failed:,.0f} of {failed + metrics['completed']:,.0f} requests are not answered, each a miss")
    if cut := metrics.get("answers_cut"):
        told.append(
            f"{cut:,.0f} answers are cut at max_model_len: the numbers are for answers shorter than the trace's"
        )
    return told


def _cache_tokens(engine: EngineConfig) -> int:
    return (engine.num_gpu_blocks - 1) * engine.block_size


def _over_budget(engine: EngineConfig) -> str:
    told = f"have more tokens to compute than the {engine.token_budget} of a step, and may not be chunked"
    if engine.enable_chunked_prefill or engine.max_model_len < UNLIMITED_MODEL_LEN:
        return told
    return f"{told} (vLLM raises what a step has to the model's length: give max_model_len)"


def _refusals(
    requests: RequestTable, asked_tokens: np.ndarray, engine: EngineConfig, policy: str
) -> Iterator[tuple[str, np.ndarray]]:
    prompts = requests.prompt_tokens
    yield f"have prompts of max_model_len={engine.max_model_len} tokens or more", prompts >= engine.max_model_len
    yield f"ask for more than max_model_len={engine.max_model_len} tokens", asked_tokens > engine.max_model_len
    if not engine.version_rules.cuts_long_answers:
        too_long = prompts + asked_tokens > engine.max_model_len
        yield (
            f"have more than max_model_len={engine.max_model_len} tokens, prompt and requested answer together",
            too_long,
        )
    cache_tokens = _cache_tokens(engine)
    yield f"have prompts larger than the KV cache of {cache_tokens} tokens", prompts > cache_tokens
    if policy == "vllm-v0":
        yield _over_budget(engine), prompts > engine.token_budget
    yield "were turned away by max_num_queued_reqs or max_num_queued_tokens", np.ones(len(prompts), np.bool_)
