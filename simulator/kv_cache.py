"""KV blocks: allocation, prefix cache, eviction. Compiled.

vLLM's KVCacheManager, FullAttentionManager and BlockPool (vllm/v1/core/{kv_cache_manager,single_type_kv_cache_manager,
block_pool}.py) for one group of full-attention layers. Without prefix caching the blocks have no identity, so only
their number is kept.
"""

from numba import njit

from .state import FREE_BLOCKS, FREE_HEAD, FREE_SLOTS, FREE_TAIL


@njit(cache=True, inline="always")
def blocks_for(rules, tokens):
    """Blocks that hold `tokens` tokens."""
    return (tokens + rules.block_size - 1) // rules.block_size


@njit(cache=True, inline="always")
def exceeds_cache(rules, tokens):
    """Whether `tokens` tokens need more blocks than there are; one is the null block (BlockPool)."""
    return blocks_for(rules, tokens) > rules.num_blocks - 1


@njit(cache=True)
def content_of(contents, request, block):
    """Content of the request's block number `block`."""
    place = contents.offsets[request] + block
    if place < contents.offsets[request + 1]:
        return contents.shared[place]
    return contents.private[request] + block


@njit(cache=True)
def count_hits(rules, requests, contents, pool, request):
    """(blocks found in the cache, how many of them are in the free list): the longest run of cached leading blocks.

    At most num_tokens - 1 tokens may hit, so that one is left to compute (KVCacheManager.get_computed_blocks).
    """
    hits = evictable = 0
    most = (requests.known[request] - 1) // rules.block_size
    while hits < most:
        block = pool.first[content_of(contents, request, hits)]
        if block == 0:
            break
        evictable += pool.refs[block] == 0
        hits += 1
    return hits, evictable


@njit(cache=True)
def admit(rules, requests, contents, engine, request, hits):
    """Give `request` a row of the block table and the `hits` cached blocks that it starts with."""
    if not rules.caching:
        return
    pool, count = engine.pool, engine.count
    count[FREE_SLOTS] -= 1
    slot = pool.free_slots[count[FREE_SLOTS]]
    requests.slot[request] = slot
    for k in range(hits):
        block = pool.first[content_of(contents, request, k)]
        if pool.refs[block] == 0:
            _unlink(engine, block)
            count[FREE_BLOCKS] -= 1
        pool.refs[block] += 1
        pool.table[slot, k] = block
    requests.held[request] = hits
    requests.hashed[request] = hits


@njit(cache=True)
def grow(rules, requests, engine, request, blocks):
    """Give `request` more blocks from the front of the free list; the caller has made sure that there are enough."""
    engine.count[FREE_BLOCKS] -= blocks
    if rules.caching:
        pool, slot, held = engine.pool, requests.slot[request], requests.held[request]
        for k in range(held, held + blocks):
            block = engine.count[FREE_HEAD]
            _unlink(engine, block)
            if pool.content[block] >= 0:
                _forget(pool, block)
            pool.refs[block] = 1
            pool.table[slot, k] = block
    requests.held[request] += blocks


@njit(cache=True)
def publish(rules, requests, contents, pool, request, tokens):
    """Make the full blocks among the first `tokens` tokens hittable (BlockPool.cache_full_blocks)."""
    if not rules.caching:
        return
    full = tokens // rules.block_size
    for k in range(requests.hashed[request], full):
        _remember(pool, pool.table[requests.slot[request], k], content_of(contents, request, k))
    requests.hashed[request] = max(full, requests.hashed[request])


@njit(cache=True)
def release(rules, requests, engine, request):
    """Take all blocks from `request`.

    They are visited from the tail. Hashed ones join the end of the free list, so tails are evicted first; the others
    are put in front, to be used next (BlockPool.free_blocks).
    """
    held = requests.held[request]
    if rules.caching:
        _release_blocks(engine, requests.slot[request], held)
    else:
        engine.count[FREE_BLOCKS] += held
    requests.held[request] = 0
    requests.hashed[request] = 0


@njit(cache=True)
def _release_blocks(engine, slot, held):
    pool, count = engine.pool, engine.count
    for k in range(held - 1, -1, -1):
        block = pool.table[slot, k]
        pool.refs[block] -= 1
        if pool.refs[block] == 0:
            count[FREE_BLOCKS] += 1
            if pool.content[block] >= 0:
                _link_last(engine, block)
    for k in range(held):
        block = pool.table[slot, k]
        if pool.refs[block] == 0 and pool.content[block] < 0:
            _link_first(engine, block)
    pool.free_slots[count[FREE_SLOTS]] = slot
    count[FREE_SLOTS] += 1


@njit(cache=True)
def _unlink(engine, block):
    previous, following = engine.pool.previous[block], engine.pool.following[block]
    if previous == 0:
        engine.count[FREE_HEAD] = following
    else:
        engine.pool.following[previous] = following
    if following == 0:
        engine.count[FREE_TAIL] = previous
    else:
        engine.pool.previous[following] = previous


@njit(cache=True)
def _link_last(engine, block):
    tail = engine.count[FREE_TAIL]
    engine.pool.previous[block], engine.pool.following[block] = tail, 0
    if tail == 0:
        engine.count[FREE_HEAD] = block
    else:
        engine.pool.following[tail] = block
    engine.count[FREE_TAIL] = block


@njit(cache=True)
def _link_first(engine, block):
    head = engine.count[FREE_HEAD]
    engine.pool.previous[block], engine.pool.following[block] = 0, head
    if head == 0:
        engine.count[FREE_TAIL] = block
    else:
        engine.pool.previous[head] = block
    engine.count[FREE_HEAD] = block


@njit(cache=True)
def _remember(pool, block, content):
    """Duplicates are kept; a lookup finds the one inserted first (BlockHashToBlockMap)."""
    pool.content[block] = content
    first = pool.first[content]
    if first == 0:
        pool.first[content] = pool.older[block] = pool.newer[block] = block
        return
    last = pool.older[first]
    pool.newer[last] = pool.older[first] = block
    pool.older[block], pool.newer[block] = last, first


@njit(cache=True)
def _forget(pool, block):
    content = pool.content[block]
    pool.content[block] = -1
    older, newer = pool.older[block], pool.newer[block]
    if newer == block:
        pool.first[content] = 0
        return
    pool.newer[older], pool.older[newer] = newer, older
    if pool.first[content] == block:
        pool.first[content] = newer
