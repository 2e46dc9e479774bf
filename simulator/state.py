"""What the compiled step loop works on: arrays of records. Built once per simulation, changed only by compiled code.

Records keep what is used together together, in memory and in the code; and a handful of arrays compiles several times
faster than a hundred would.
"""

from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from ..arrays import F64, I8, I32, I64
from .policy_names import POLICIES
from .step_time import REACHES

Records = Any
"""A one- or two-dimensional array of records: numpy's types have no way to tell the fields."""

PENDING, WAITING, PREEMPTED, RUNNING = range(-4, 0)
"""Status of a request that has not ended: below those of request_table.py."""

VLLM_V1, SARATHI, VLLM_V0, ORCA, REQUEST_LEVEL = range(len(POLICIES))
"""Places in POLICIES, which compiled code compares."""

REQUEST = np.dtype(
    [
        ("prompt", np.int64),
        ("max_tokens", np.int64),  # tokens to generate
        ("priority", np.int64),
        ("rank", np.int64),  # place in vLLM's order of (priority, arrival, id): Request.__lt__ in vllm/v1/request.py
        ("stamp_s", np.float64),  # when it reaches the server: Request.arrival_time
        ("ready_s", np.float64),  # when it reaches the engine
        ("shared_start", np.int64),  # its leading blocks that others have too: engine.shared[start:start + count]
        ("shared_count", np.int64),
        ("private_content", np.int64),  # content of its block k behind those: private_content + k
        ("first_accepted", np.int64),  # its entries of engine.accepted: one an output token
        ("status", np.int64),
        ("known", np.int64),  # num_tokens: prompt and outputs that exist
        ("computed", np.int64),
        ("placeholders", np.int64),  # num_output_placeholders of async scheduling: tokens sampled in flight
        ("drafts", np.int64),  # spec_token_ids: tokens drafted and not yet scheduled
        ("prefilling", np.int64),  # is_prefill_chunk: its last row did not reach the end of what it knows
        ("eligible", np.int64),  # next_decode_eligible_step, counted in schedules
        ("in_flight", np.int64),  # tokens scheduled whose step has not ended
        ("stale", np.int64),  # num_stale_output_tokens: those of in_flight scheduled before a preemption
        ("deferred", np.int64),  # whether it waits and was passed over for those (deferred_waiting)
        ("held", np.int64),  # KV blocks held
        ("hashed", np.int64),  # num_cached_block: leading blocks that others can hit
        ("slot", np.int64),  # row of the block table
        ("sampled_s", np.float64),  # when the last token that it was scheduled for has left the last pipeline stage
        ("key", np.int64),  # place in the waiting queue: lower is nearer to the front
        ("sent", np.int64),  # output tokens sent to the client
        ("vain", np.int64),  # attempts from this one on that give no whole answer, whose gaps do not count
        ("cached", np.int64),  # prompt tokens found in the prefix cache at first admission; -1 before
        ("preemptions", np.int64),
        ("first_token_s", np.float64),
        ("last_emission_s", np.float64),
        ("finish_s", np.float64),
    ]
)

GIVEN = tuple(takewhile("status".__ne__, REQUEST.names or ()))
"""Fields of REQUEST that no engine changes."""

STATE = np.dtype(
    [
        ("now_s", np.float64),
        ("last_emission_s", np.float64),  # when the step before this one ended
        ("dies_s", np.float64),  # what would end later is lost; +inf for an engine that lives
        ("num_running", np.int64),
        ("num_waiting", np.int64),
        ("heap_size", np.int64),
        ("queue_front", np.int64),  # the lowest and
        ("queue_back", np.int64),  # the highest key given in the waiting queue
        ("free_blocks", np.int64),
        ("free_before", np.int64),  # free blocks before the last step ended
        ("free_head", np.int64),
        ("free_tail", np.int64),
        ("free_slots", np.int64),
        ("next_arrival", np.int64),
        ("num_arrivals", np.int64),
        ("num_ended", np.int64),
        ("ended_since", np.int64),  # whether a request has ended since the last schedule
        ("first_in_flight", np.int64),
        ("num_in_flight", np.int64),
        ("schedule", np.int64),  # number of the schedule being made
        ("num_rows", np.int64),  # of the step being scheduled, as those down to restored_tokens
        ("num_running_rows", np.int64),  # those of requests that were running before
        ("prefill_scheduled", np.int64),  # whether one of them was in the middle of its prompt
        ("prefill_admitted", np.int64),  # whether a request was taken in with more than its last token to compute
        ("defers_prefills", np.int64),  # whether the step takes no prefill
        ("executed", np.int64),  # steps with rows so far
        ("last_prefill", np.int64),  # the last of them with a prefill
        ("capacity_bound", np.int64),  # prefill_capacity_bound: requests were left waiting; prefills are not deferred
        ("num_deferred", np.int64),  # requests that are
        ("num_preempted", np.int64),
        ("holds", np.int64),  # 1: the step in front ends once all arrivals before its end are known
        ("fruitless", np.int64),  # preemptions since a token was sampled
        ("num_skipped", np.int64),
        ("cursor", np.int64),  # place in running
        ("restored_tokens", np.int64),  # token budget that preempting rows of this step gave back
        ("logged_steps", np.int64),
        ("logged_rows", np.int64),
        ("logged_preempted", np.int64),
        ("logged_gaps", np.int64),
    ]
)

BLOCK = np.dtype(
    [
        ("previous", np.int32),  # free list, in order of eviction
        ("following", np.int32),
        ("older", np.int32),  # blocks of one bucket form a ring in order of insertion
        ("newer", np.int32),
        ("content", np.int64),  # -1 where not hashed
        ("refs", np.int64),
    ]
)
"""A KV block (KVCacheBlock in vllm/v1/core/kv_cache_utils.py). Block 0 is the null block, so 0 means none."""

FLIGHT = np.dtype([("end_s", np.float64), ("rows", np.int64)])
ROW = np.dtype(
    [
        ("request", np.int64),
        ("tokens", np.int64),
        ("context", np.int64),
        ("samples", np.int64),
        ("drafts", np.int64),  # how many of the tokens are drafts
        ("padded", np.int64),  # whether the drafts are padding, which nothing accepts
    ]
)
STEP_LOG = np.dtype(
    [
        ("start_s", np.float64),
        ("end_s", np.float64),
        ("free_blocks", np.int64),
        ("row_end", np.int64),
        ("preempted_end", np.int64),
    ]
)
GAP_LOG = np.dtype([("gap_s", np.float64), ("count", np.int64)])


EMPTY_AT_START = (
    *("num_running", "num_waiting", "num_deferred", "heap_size", "ended_since", "first_in_flight", "num_in_flight"),
    *("holds", "next_arrival", "num_arrivals", "executed", "capacity_bound"),
)
"""Fields of STATE that are 0 in an engine that starts."""


class Engine(NamedTuple):
    """One replica; `requests` and `shared` are common to all replicas of a simulation."""

    rules: Records
    """RULES, one record."""
    state: Records
    """STATE, one record."""
    requests: Records
    """REQUEST, a record a request."""
    shared: I32
    """Contents of the blocks that several requests have (traces/content.py)."""
    accepted: I8
    """Drafts accepted by a verification that begins at each output token (speculation.py); empty without drafts."""
    running: I64
    """Running requests in order of admission; the first state.num_running entries."""
    heap: I64
    """The waiting queue: a binary heap of requests by key."""
    arrivals: I64
    """Requests sent here, in order of ready_s."""
    ended: I64
    """Requests that ended here, in order of time."""
    preempted: I64
    """Preempted in the step being scheduled."""
    skipped: I64
    """Waiting requests passed over in the step being scheduled."""
    blocks: Records
    """BLOCK, a record a KV block that may be used; one where nothing is cached: then only their number matters."""
    first_block: I32
    """The block inserted first of each bucket of contents (kv_cache.py); 0 if none is cached. A power of two of them,
    at least one a block: a replica's memory must not grow with the contents that there are."""
    table: I32
    """(slots, blocks): KV blocks of each running request."""
    free_slots: I64
    flights: Records
    """FLIGHT: a ring of the steps scheduled and not yet ended."""
    rows: Records
    """ROW, (flights, seats): their rows in scheduling order."""
    reaches: I64
    """(2, REACHES): steps made, without and with a prefill, by how far they lie from what was measured (reach_of)."""
    stage_free_s: F64
    """(pipeline stages,): when each stage has done its last step."""
    step_log: Records
    """STEP_LOG, ROW and requests of the steps made, and GAP_LOG of inter-token latencies, until they are taken."""
    row_log: Records
    preempted_log: I64
    gap_log: Records


def new_requests(**columns: Any) -> Records:
    """Requests that have not arrived yet, from columns of REQUEST's names: prompt, max_tokens, ready_s at least."""
    requests = np.zeros(len(columns["prompt"]), REQUEST).view(np.recarray)
    for name, column in columns.items():
        requests[name] = column
    requests["known"] = columns["prompt"]
    requests["status"] = PENDING
    requests["cached"] = -1
    for name in ("first_token_s", "last_emission_s", "finish_s"):
        requests[name] = np.nan
    return requests


STEPS_PER_BATCH = 1 << 13
ROWS_PER_BATCH = 1 << 17


def new_engines(
    rules: Records, requests: Records, shared: I32, accepted: I8, stages: int, record: bool, shares: I64
) -> list[Engine]:
    """Empty replicas, one for each of `shares`: how many of the requests may be sent to it."""
    longest = _longest(rules[0], requests)
    return [_new_engine(rules, requests, shared, accepted, stages, record, int(n), longest) for n in shares]


def _new_engine(
    rules: Records, requests: Records, shared: I32, accepted: I8, stages: int, record: bool, n: int, longest: int
) -> Engine:
    rule = rules[0]
    seats, depth = max(1, min(int(rule.max_num_seqs), n)), int(rule.depth)
    state = np.zeros(1, STATE).view(np.recarray)
    batch = max(ROWS_PER_BATCH, 4 * seats)
    logged = batch if record else 1
    # Those beyond what all its requests together can hold would never be touched.
    blocks = min(int(rule.num_blocks), n * longest + 1) if rule.caching else 1
    engine = Engine(
        rules=rules,
        state=state,
        requests=requests,
        shared=shared,
        accepted=accepted,
        running=np.zeros(seats, np.int64),
        heap=np.zeros(n + 1, np.int64),
        arrivals=np.zeros(n, np.int64),
        ended=np.zeros(n, np.int64),
        preempted=np.zeros(seats, np.int64),
        skipped=np.zeros(seats * depth, np.int64),
        blocks=np.zeros(blocks, BLOCK).view(np.recarray),
        first_block=np.zeros(1 << (blocks - 1).bit_length(), np.int32),
        table=np.zeros((seats, longest) if rule.caching else (1, 1), np.int32),
        free_slots=np.zeros(seats, np.int64),
        flights=np.zeros(depth, FLIGHT).view(np.recarray),
        rows=np.zeros((depth, seats), ROW).view(np.recarray),
        reaches=np.zeros((2, REACHES), np.int64),
        stage_free_s=np.zeros(stages),
        step_log=np.zeros(STEPS_PER_BATCH if record else 1, STEP_LOG).view(np.recarray),
        row_log=np.zeros(logged, ROW).view(np.recarray),
        preempted_log=np.zeros(logged, np.int64),
        gap_log=np.zeros(batch, GAP_LOG).view(np.recarray),
    )
    start(engine, 0.0, np.inf)
    return engine


def start(engine: Engine, now_s: float, dies_s: float) -> None:
    """Start the engine, or start it again, at `now_s`: nothing queued, running or cached. It will die at `dies_s`.

    What it has done so far (requests ended, steps, the log) stays.
    """
    state, seats, blocks = engine.state[0], len(engine.free_slots), engine.blocks
    state.now_s, state.last_emission_s, state.dies_s = now_s, now_s, dies_s
    for name in EMPTY_AT_START:
        state[name] = 0
    state.last_prefill = -engine.rules[0].prefill_interval  # so that the first is not deferred
    state.free_blocks = engine.rules[0].num_blocks - 1
    state.free_head, state.free_tail, state.free_slots = 1, len(blocks) - 1, seats
    engine.free_slots[:] = np.arange(seats)
    engine.flights["rows"] = 0
    engine.stage_free_s[:] = now_s
    engine.first_block[:] = 0
    blocks["previous"] = np.arange(-1, len(blocks) - 1)
    blocks["following"] = np.append(np.arange(1, len(blocks)), 0)
    blocks["older"] = blocks["newer"] = blocks["refs"] = 0
    blocks["content"] = -1


def forget(engine: Engine, lost: I64) -> None:
    """Take the `lost` requests back to where they had not reached any engine."""
    fresh = new_requests(**{name: engine.requests[lost][name] for name in GIVEN})
    fresh["preemptions"] = engine.requests[lost]["preemptions"]
    fresh["vain"] = np.maximum(engine.requests[lost]["vain"] - 1, 0)
    engine.requests[lost] = fresh


def _longest(rule: Any, requests: Records) -> int:
    """Blocks that the longest request can hold: every step in flight may be one whose drafts are all in vain. Prompts
    larger than the whole cache hold none, and what outgrows it never more than there are."""
    drafted = rule.depth * (1 + rule.draft_tokens) + rule.lookahead_tokens
    length = requests.prompt + requests.max_tokens + drafted
    fits = requests.prompt <= (rule.num_blocks - 1) * rule.block_size
    tokens = np.minimum(length[fits], rule.max_model_len)
    return min(int(tokens.max(initial=0)) // int(rule.block_size) + 1, int(rule.num_blocks))
