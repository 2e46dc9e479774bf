"""Which full KV blocks hold the same tokens, as integers: what the prefix cache looks up.

vLLM keys a full block by a hash over its parent's key and its own tokens (vllm/v1/core/kv_cache_utils.py,
hash_block_tokens). Traces carry runs instead of tokens: token p of a run is (run name, p). So a block's key is a chain
over the run segments in it, and the keys are made dense once, before anything is simulated.
"""

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from ..arrays import I32, I64
from .trace import Trace

U64 = npt.NDArray[np.uint64]

# The outputs of two requests with wholly identical prompts are identical (greedy sampling, as in the schedules of vLLM
# that this is compared with): one more run, of this name.
OUTPUT_RUN = -1

# splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014)
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROOT = np.uint64(1)
_FIRST_SLOTS = 1 << 10


@dataclass(frozen=True, slots=True, eq=False)
class BlockContent:
    """The leading full blocks of every request whose content another request has too."""

    offsets: I64
    """(n + 1,): the blocks of request i are ids[offsets[i]:offsets[i + 1]], counted over prompt, then outputs."""
    ids: I32
    """(blocks,): content of each block, dense in [0, shared_count)."""
    shared_count: int
    """Number of distinct contents."""


def block_content(trace: Trace, block_size: int, lookahead: int = 0) -> BlockContent:
    """Content ids of the shared leading blocks of `block_size` tokens.

    Two blocks have one id iff all tokens up to and including the block, and `lookahead` ones behind it, are the same. A
    block is listed iff another request has it: what lies behind is private to the request. Where the runs cover a whole
    prompt, its outputs count as one more run, so requests with wholly identical prompts share output blocks as well.

    Keys are 64 bits: two different blocks among 10**8 are confused with a probability of 3e-4.
    """
    runs = _runs_with_outputs(trace)
    offsets = np.zeros(len(trace) + 1, np.int64)
    np.cumsum(np.maximum(_shared_tokens(*runs) - lookahead, 0) // block_size, out=offsets[1:])
    ids, count = _block_ids(*runs, offsets, block_size, lookahead)
    return BlockContent(offsets, ids, int(count))


def _runs_with_outputs(trace: Trace) -> tuple[I64, I64, I32]:
    """Offsets, names and lengths of the runs, the outputs appended where the runs cover the whole prompt."""
    covered = trace.wholly_named
    if not covered.any():
        return trace.run_offsets, trace.run_name, trace.run_tokens
    ends = trace.run_offsets[1:][covered]
    offsets = trace.run_offsets + np.concatenate(([0], np.cumsum(covered)))
    return (
        offsets,
        np.insert(trace.run_name, ends, OUTPUT_RUN),
        np.insert(trace.run_tokens, ends, trace.output_tokens[covered]),
    )


def prefix_hit_tokens(trace: Trace) -> I64:
    """(n,): leading prompt tokens of each request that the prompt of an earlier request starts with too."""
    hits: I64 = _hit_tokens(trace.run_offsets, trace.run_name, trace.run_tokens)
    return hits


@numba.njit(cache=True)
def _shared_tokens(offsets: I64, names: I64, lengths: I32) -> I64:
    """(n,): leading tokens of each request that another request has too, earlier or later."""
    node = _run_nodes(offsets, names, lengths)
    longest = np.zeros(len(names), np.int32)
    second = np.zeros(len(names), np.int32)
    for k in range(len(names)):
        if lengths[k] > longest[node[k]]:
            second[node[k]] = longest[node[k]]
            longest[node[k]] = lengths[k]
        elif lengths[k] > second[node[k]]:
            second[node[k]] = lengths[k]
    shared = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(shared)):
        for k in range(offsets[i], offsets[i + 1]):
            here = min(lengths[k], second[node[k]])
            shared[i] += here
            if here < lengths[k]:
                break
    return shared


@numba.njit(cache=True)
def _hit_tokens(offsets: I64, names: I64, lengths: I32) -> I64:
    """(n,): leading tokens of each request that an earlier one has too."""
    node = _run_nodes(offsets, names, lengths)
    longest = np.zeros(len(names), np.int32)
    hits = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(hits)):
        same = True
        for k in range(offsets[i], offsets[i + 1]):
            if same:
                hits[i] += min(lengths[k], longest[node[k]])
                same = lengths[k] <= longest[node[k]]
            longest[node[k]] = max(lengths[k], longest[node[k]])
    return hits


@numba.njit(cache=True)
def _run_nodes(offsets: I64, names: I64, lengths: I32) -> I32:
    """(runs,): a number for each run, the same iff all runs before are the same and the names agree.

    Runs of one node start with the same tokens, as far as the shorter goes. Empty runs change nothing.
    """
    node = np.zeros(len(names), np.int32)
    keys, values, count = np.zeros(_FIRST_SLOTS, np.uint64), np.zeros(_FIRST_SLOTS, np.int32), 0
    for i in range(len(offsets) - 1):
        parent = _ROOT
        for k in range(offsets[i], offsets[i + 1]):
            if lengths[k] == 0:
                continue
            key = _chain(parent, names[k])
            parent = _chain(key, lengths[k])
            slot = _slot(keys, key)
            if keys[slot] == 0:
                keys[slot], values[slot] = key, count
                count += 1
            node[k] = values[slot]
            if 2 * count > len(keys):
                keys, values = _grown(keys, values)
    return node


@numba.njit(cache=True)
def _chain(parent: np.uint64, value: int) -> np.uint64:
    """The key of `value` after `parent`; never 0, which marks an empty slot."""
    key = parent * _MIX_2 + np.uint64(value) + _GAMMA
    key = (key ^ (key >> np.uint64(30))) * _MIX_1
    key = (key ^ (key >> np.uint64(27))) * _MIX_2
    key = key ^ (key >> np.uint64(31))
    return key if key != np.uint64(0) else _ROOT


@numba.njit(cache=True)
def _slot(keys: U64, key: np.uint64) -> np.int64:
    """Where `key` is, or would go, in an open-addressing table whose size is a power of two."""
    mask = len(keys) - 1
    slot = np.int64(key >> np.uint64(1)) & mask
    while keys[slot] != np.uint64(0) and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _grown(keys: U64, values: I32) -> tuple[U64, I32]:
    """The same table with twice the slots."""
    more_keys = np.zeros(2 * len(keys), np.uint64)
    more_values = np.zeros(2 * len(keys), np.int32)
    for old in range(len(keys)):
        if keys[old] != np.uint64(0):
            slot = _slot(more_keys, keys[old])
            more_keys[slot] = keys[old]
            more_values[slot] = values[old]
    return more_keys, more_values


@numba.njit(cache=True)
def _block_ids(
    offsets: I64, names: I64, lengths: I32, block_offsets: I64, block_size: int, lookahead: int
) -> tuple[I32, int]:
    """Dense ids, in order of first appearance, of the blocks that `block_offsets` counts; and how many there are."""
    ids = np.empty(block_offsets[-1], np.int32)
    keys, values, count = np.zeros(_FIRST_SLOTS, np.uint64), np.zeros(_FIRST_SLOTS, np.int32), 0
    for i in range(len(offsets) - 1):
        key, run, start = _ROOT, offsets[i], 0
        for block in range(block_offsets[i], block_offsets[i + 1]):
            key, run, start = _walked(key, run, start, block_size, names, lengths)
            seen, _, _ = _walked(key, run, start, lookahead, names, lengths)
            slot = _slot(keys, seen)
            if keys[slot] == 0:
                keys[slot], values[slot] = seen, count
                count += 1
            ids[block] = values[slot]
            if 2 * count > len(keys):
                keys, values = _grown(keys, values)
    return ids, count


@numba.njit(cache=True)
def _walked(key: np.uint64, run: int, start: int, tokens: int, names: I64, lengths: I32) -> tuple[np.uint64, int, int]:
    """The key after `tokens` more tokens from place `start` of a run on, and where that is."""
    left = tokens
    while left > 0:
        here = min(left, lengths[run] - start)
        if here > 0:
            key = _chain(_chain(_chain(key, names[run]), start), here)
            left -= here
            start += here
        if start == lengths[run]:
            run, start = run + 1, 0
    return key, run, start
