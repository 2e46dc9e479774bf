"""What the compiled step loop works on: plain arrays, grouped. Built once per simulation, changed only by compiled code."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .engine_config import UNLIMITED_MODEL_LEN, EngineConfig

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]

# Status of a request.
PENDING, WAITING, PREEMPTED, RUNNING, FINISHED, REJECTED, FAILED = range(7)

# Scheduling policies.
VLLM_V1, SARATHI, VLLM_V0, ORCA, REQUEST_LEVEL = range(5)
POLICY_NAMES = {
    "vllm-v1": VLLM_V1,
    "sarathi": SARATHI,
    "vllm-v0": VLLM_V0,
    "orca": ORCA,
    "request-level": REQUEST_LEVEL,
}

# Counters of an engine: indices into Engine.count.
(
    NUM_RUNNING,
    NUM_WAITING,
    HEAP_SIZE,
    QUEUE_FRONT,
    QUEUE_BACK,
    FREE_BLOCKS,
    FREE_HEAD,
    FREE_TAIL,
    FREE_SLOTS,
    NEXT_ARRIVAL,
    NUM_ARRIVALS,
    NUM_FINISHED,
    FINISHED_SINCE,
    FIRST_IN_FLIGHT,
    NUM_IN_FLIGHT,
    NUM_PREEMPTED,
    NUM_STEPS,
    NUM_EXTRAPOLATED,
    NUM_ROWS,
    COUNTERS,
) = range(20)

# Times of an engine: indices into Engine.clock.
NOW, LAST_EMISSION, CLOCKS = range(3)


class Rules(NamedTuple):
    """EngineConfig as compiled code takes it: integers (0 = off, where vLLM has None) and one policy."""

    policy: int
    max_model_len: int
    token_budget: int
    max_num_seqs: int
    max_num_active_seqs: int
    long_prefill_token_threshold: int
    adaptive_threshold: int
    input_budget: int
    chunked_prefill: int
    caching: int
    by_priority: int
    reserve_full_isl: int
    watermark_blocks: int
    asynchronous: int
    depth: int
    stream_interval: int
    block_size: int
    num_blocks: int
    max_queued_reqs: int
    max_queued_tokens: int


class Requests(NamedTuple):
    """A column per attribute, an entry per request; shared by all replicas."""

    prompt: I64
    """Prompt tokens."""
    max_tokens: I64
    """Tokens to generate."""
    priority: I64
    rank: I64
    """Place in vLLM's order of (priority, arrival, id): Request.__lt__ in vllm/v1/request.py."""
    ready_s: F64
    """When the request reaches the engine."""
    status: I64
    known: I64
    """num_tokens: prompt and outputs that exist."""
    computed: I64
    placeholders: I64
    """num_output_placeholders of async scheduling: tokens sampled in flight."""
    in_flight: I64
    """Tokens scheduled whose step has not ended."""
    stale: I64
    """num_stale_output_tokens: those of `in_flight` that were scheduled before a preemption."""
    held: I64
    """KV blocks held."""
    hashed: I64
    """num_cached_block: leading blocks that other requests can hit."""
    slot: I64
    """Row of the block table."""
    key: I64
    """Place in the waiting queue: lower is nearer to the front."""
    sent: I64
    """Output tokens sent to the client."""
    cached: I64
    """Prompt tokens found in the prefix cache at first admission; -1 before."""
    preemptions: I64
    first_token_s: F64
    last_emission_s: F64
    finish_s: F64


class Contents(NamedTuple):
    """Which KV blocks hold the same tokens, as integers: see traces/content.py."""

    offsets: I64
    """(n + 1,): shared leading blocks of request i are shared[offsets[i]:offsets[i + 1]]."""
    shared: I64
    private: I64
    """(n,): block k of request i, where it is not shared, has the content private[i] + k."""


class Pool(NamedTuple):
    """KV blocks: vLLM's BlockPool (vllm/v1/core/block_pool.py) as arrays. Block 0 is the null block, so 0 means none."""

    previous: I32
    """Free list, doubly linked, in order of eviction."""
    following: I32
    refs: I32
    content: I64
    """Content of a hashed block; -1 of one that is not."""
    older: I32
    """Blocks of one content form a ring in order of insertion."""
    newer: I32
    first: I32
    """(contents,): the block of this content that was inserted first; 0 if none is cached."""
    table: I32
    """(slots, blocks): KV blocks of each running request."""
    free_slots: I64


class Flight(NamedTuple):
    """Steps scheduled and not yet ended: a ring of `depth` entries of rows in scheduling order."""

    end_s: F64
    rows: I64
    """(depth,): rows in each."""
    request: I64
    """(depth, max_num_seqs), as the two below."""
    tokens: I64
    context: I64
    samples: I64


class Log(NamedTuple):
    """What happened, until the caller has taken it: steps if they are recorded, and gaps between tokens."""

    counts: I64
    """[steps, rows, preempted, gaps] used."""
    start_s: F64
    end_s: F64
    free_blocks: I64
    row_end: I64
    preempted_end: I64
    request: I64
    tokens: I64
    context: I64
    preempted: I64
    gap_s: F64
    """Inter-token latencies, each with how many requests had it."""
    gap_count: I64


class Engine(NamedTuple):
    """One replica."""

    count: I64
    clock: F64
    stage_free_s: F64
    """(pipeline stages,): when each stage has done its last step."""
    running: I64
    heap: I64
    """The waiting queue: a binary heap of requests by their key."""
    arrivals: I64
    """Requests sent to this replica, in order of ready_s."""
    finished: I64
    """Requests that ended here, in order of time."""
    preempted: I64
    """Preempted in the step being scheduled."""
    skipped: I64
    """Waiting requests passed over in the step being scheduled."""
    pool: Pool
    flight: Flight
    log: Log


def rules_of(engine: EngineConfig, policy: str = "vllm-v1") -> Rules:
    """The compiled form of `engine` under one of POLICY_NAMES."""
    tokens = engine.max_num_batched_tokens
    overlapping = engine.async_scheduling and engine.pipeline_parallel_size == 1
    return Rules(
        policy=POLICY_NAMES[policy],
        max_model_len=engine.max_model_len,
        token_budget=min(engine.max_num_scheduled_tokens or tokens, tokens),
        max_num_seqs=engine.max_num_seqs,
        max_num_active_seqs=engine.max_num_active_seqs or engine.max_num_seqs,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        adaptive_threshold=int(engine.long_prefill_token_threshold_adaptive),
        input_budget=tokens,
        chunked_prefill=int(engine.enable_chunked_prefill),
        caching=int(engine.enable_prefix_caching and policy == "vllm-v1"),
        by_priority=int(engine.scheduling_policy == "priority"),
        reserve_full_isl=int(engine.scheduler_reserve_full_isl),
        watermark_blocks=int(engine.watermark * engine.num_gpu_blocks),
        asynchronous=int(overlapping and policy == "vllm-v1"),
        depth=(2 if overlapping else engine.pipeline_parallel_size) if policy == "vllm-v1" else 1,
        stream_interval=engine.stream_interval,
        block_size=engine.block_size,
        num_blocks=engine.num_gpu_blocks,
        max_queued_reqs=engine.max_num_queued_reqs or 0,
        max_queued_tokens=engine.max_num_queued_tokens or 0,
    )


def new_requests(prompt: Any, output: Any, priority: Any, rank: I64, ready_s: F64) -> Requests:
    """Requests that have not arrived yet."""
    n = len(prompt)
    zeros = {name: np.zeros(n, np.int64) for name in Requests._fields}
    zeros |= {name: np.full(n, np.nan) for name in ("first_token_s", "last_emission_s", "finish_s")}
    zeros["cached"] = np.full(n, -1, np.int64)
    given = {"prompt": prompt, "max_tokens": output, "priority": priority, "known": prompt}
    columns = zeros | {name: np.array(value, np.int64) for name, value in given.items()}
    return Requests(**(columns | {"rank": rank, "ready_s": ready_s}))


def new_engine(rules: Rules, requests: Requests, contents: int, stages: int, record_steps: bool) -> Engine:
    """An empty replica; `contents` is the number of different block contents there can be."""
    n = len(requests.prompt)
    seats = max(1, min(rules.max_num_seqs, n))
    count = np.zeros(COUNTERS, np.int64)
    count[FREE_BLOCKS] = rules.num_blocks - 1
    count[FREE_HEAD], count[FREE_TAIL] = 1, rules.num_blocks - 1
    count[FREE_SLOTS] = seats
    return Engine(
        count=count,
        clock=np.zeros(CLOCKS),
        stage_free_s=np.zeros(stages),
        running=np.zeros(seats, np.int64),
        heap=np.zeros(n + 1, np.int64),
        arrivals=np.zeros(n, np.int64),
        finished=np.zeros(n, np.int64),
        preempted=np.zeros(seats, np.int64),
        skipped=np.zeros(seats * rules.depth, np.int64),
        pool=_new_pool(rules, requests, contents, seats),
        flight=_new_flight(rules.depth, seats),
        log=_new_log(seats, record_steps),
    )


def _new_pool(rules: Rules, requests: Requests, contents: int, seats: int) -> Pool:
    blocks = rules.num_blocks if rules.caching else 1
    longest = np.minimum(requests.prompt + requests.max_tokens, min(rules.max_model_len, UNLIMITED_MODEL_LEN))
    width = int(longest.max(initial=0)) // rules.block_size + 1 if rules.caching else 1
    return Pool(
        previous=np.arange(-1, blocks - 1, dtype=np.int32),
        following=np.append(np.arange(1, blocks, dtype=np.int32), np.int32(0)),
        refs=np.zeros(blocks, np.int32),
        content=np.full(blocks, -1, np.int64),
        older=np.zeros(blocks, np.int32),
        newer=np.zeros(blocks, np.int32),
        first=np.zeros(max(1, contents), np.int32),
        table=np.zeros((seats if rules.caching else 1, width), np.int32),
        free_slots=np.arange(seats, dtype=np.int64)[::-1].copy(),
    )


def _new_flight(depth: int, seats: int) -> Flight:
    rows = {name: np.zeros((depth, seats), np.int64) for name in ("request", "tokens", "context", "samples")}
    return Flight(end_s=np.zeros(depth), rows=np.zeros(depth, np.int64), **rows)


STEPS_PER_BATCH = 1 << 13
ROWS_PER_BATCH = 1 << 17


def _new_log(seats: int, record_steps: bool) -> Log:
    steps = STEPS_PER_BATCH if record_steps else 1
    rows = max(ROWS_PER_BATCH, 4 * seats) if record_steps else 1
    gaps = max(ROWS_PER_BATCH, 4 * seats)
    return Log(
        counts=np.zeros(4, np.int64),
        start_s=np.zeros(steps),
        end_s=np.zeros(steps),
        free_blocks=np.zeros(steps, np.int64),
        row_end=np.zeros(steps, np.int64),
        preempted_end=np.zeros(steps, np.int64),
        request=np.zeros(rows, np.int64),
        tokens=np.zeros(rows, np.int64),
        context=np.zeros(rows, np.int64),
        preempted=np.zeros(rows, np.int64),
        gap_s=np.zeros(gaps),
        gap_count=np.zeros(gaps, np.int64),
    )
