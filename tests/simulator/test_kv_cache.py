"""Blocks are found by their content, in memory that depends on the number of blocks alone."""

import math
from dataclasses import replace

from slotune.simulator.engine_config import EngineConfig
from slotune.simulator.state import Engine
from slotune.tests.simulator.runs import Setup, make_trace, plain_engine, run

COMMON = ("rules", "requests", "shared", "accepted")
"""Arrays of an engine that all replicas of a simulation have together."""


def caching(num_gpu_blocks: int) -> EngineConfig:
    return replace(plain_engine(), enable_prefix_caching=True, num_gpu_blocks=num_gpu_blocks, block_size=4)


def test_contents_of_one_bucket_are_told_apart() -> None:
    """Nine blocks have sixteen buckets, so contents 0, 16 and 32 meet in one. A prompt is one block of a name that
    others have too, and one token; names come one after another, each long after the one before."""
    names = [*range(33), *range(33), 0, 16, 0, 16]
    runs = [[(name, 4)] for name in names]
    trace = make_trace([float(k) for k in range(len(names))], [5] * len(names), [1] * len(names), runs=runs)
    cached = run(Setup(trace, caching(9))).result.requests.cached_tokens.tolist()
    assert cached == [0] * 66 + [0, 0, 4, 4]


def own_bytes(requests: int, replicas: int) -> int:
    """Bytes of what each replica has for itself, added up."""
    trace = make_trace([0.0] * requests, [8] * requests, [1] * requests)
    fleet = run(Setup(trace, caching(100), replicas=replicas)).replicas.values()
    fields = [name for name in Engine._fields if name not in COMMON]
    return sum(getattr(replica.engine, name).nbytes for replica in fleet for name in fields)


def test_memory_is_the_sum_of_replicas_and_requests_not_their_product() -> None:
    most_seats = 1024
    few, many = 8 * most_seats, 80 * most_seats  # from here on there are seats enough for all
    assert own_bytes(many, 8) - own_bytes(few, 8) == own_bytes(many, 1) - own_bytes(few, 1)
    assert own_bytes(many, 8) == 8 * own_bytes(many // 8, 1)


def test_blocks_that_nobody_can_touch_take_no_memory_and_change_nothing() -> None:
    """Forty short requests hold at most some hundred blocks, whether the cache has a thousand or a million."""
    runs = [[(k % 5, 8)] for k in range(40)]
    trace = make_trace([0.01 * k for k in range(40)], [12 + k for k in range(40)], [10] * 40, runs=runs)
    large, huge = (run(Setup(trace, caching(blocks))) for blocks in (1_000, 1_000_000))
    assert huge.result.requests.finish_s.tolist() == large.result.requests.finish_s.tolist()
    assert huge.result.requests.cached_tokens.tolist() == large.result.requests.cached_tokens.tolist()
    assert huge.replicas[0].free_at(math.inf) - large.replicas[0].free_at(math.inf) == 999_000
    assert huge.replicas[0].engine.blocks.nbytes < 1 << 16


def test_replicas_without_requests_are_not_built() -> None:
    trace = make_trace([0.0, 0.0], [8, 8], [2, 2])
    fleet = run(Setup(trace, caching(100), replicas=10_000)).replicas
    assert sorted(fleet) == [0, 1]
