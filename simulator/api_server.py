"""How busy an engine's API server is: the one process that reads every request and writes every piece of an answer.

It is no part of the simulation, where a request spends a constant time outside the engine's steps (timing.py). That
holds while the process has time to spare. Where it has none, requests wait in front of the engine, pieces of answers
are sent together (RequestOutputCollector in vllm/v1/engine/output_processor.py), and the engine is fed slowly.
"""

from collections.abc import Mapping

REQUEST_S, PROMPT_TOKEN_S, CHUNK_S = 1.4e-3, 1.3e-6, 76e-6
"""CPU time of the process for a request, a token of its prompt (given as ids) and a streamed piece of an answer:
vLLM 0.32 on a core of a shared cloud machine, by benchmarks/accuracy/api_server.py. A fast core may need half."""


def busy_share(metrics: Mapping[str, float], stream_interval: int = 1, replicas: int = 1) -> float:
    """The share of a run's time for which each replica's API server would be busy; above 1 it cannot keep up.

    `metrics` are those of a run (metrics.py) in which `stream_interval` tokens of an answer are sent together.
    """
    if not metrics["duration"] > 0:
        return 0.0
    chunks = metrics["total_output_tokens"] / stream_interval
    reading_s = metrics["completed"] * REQUEST_S + metrics["total_input_tokens"] * PROMPT_TOKEN_S
    return (reading_s + chunks * CHUNK_S) / (metrics["duration"] * replicas)
