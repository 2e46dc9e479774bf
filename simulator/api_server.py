"""How busy an engine's API server is: the one process that reads every request and writes every piece of an answer.

It is no part of the simulation, where a request spends a constant time outside the engine's steps (timing.py). That
holds while the process has time to spare. Where it has none, requests wait in front of the engine, pieces of answers
are sent together (RequestOutputCollector in vllm/v1/engine/output_processor.py), and the engine is fed slowly.
"""

import numpy as np

from ..arrays import F64, I64
from .metrics import Gaps
from .request_table import RequestTable

REQUEST_S, PROMPT_TOKEN_S, PIECE_S = 1.4e-3, 1.3e-6, 76e-6
"""CPU time of the process for a request, a token of its prompt (given as ids) and a streamed piece of an answer:
vLLM 0.32 on a core of a shared cloud machine, by benchmarks/accuracy/api_server.py. A fast core may need half."""


def cpu_s(prompt_tokens: I64, pieces: F64 | I64) -> F64:
    """(requests,): CPU seconds that the process spends on each request, by the tokens of its prompt and the pieces of
    its streamed answer."""
    return REQUEST_S + prompt_tokens * PROMPT_TOKEN_S + pieces * PIECE_S


def busy_share(requests: RequestTable, gaps: Gaps, duration_s: float) -> float:
    """The share of a run's time for which the API server of the busiest replica would be busy; above 1 it cannot keep
    up.

    Answers come in a first piece and one after each of `gaps`; how many those of a replica are is taken to go by its
    tokens.
    """
    done = requests.finished
    tokens, pieces = requests.output_tokens[done], gaps.count.sum() + done.sum()
    if not (duration_s > 0 and done.any()):
        return 0.0
    spent_s = cpu_s(requests.prompt_tokens[done], tokens * (pieces / tokens.sum()))
    return float(np.bincount(requests.replica[done], weights=spent_s).max() / duration_s)
