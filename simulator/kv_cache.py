"""KV blocks: allocation, prefix cache, eviction. Compiled.

vLLM's KVCacheManager, FullAttentionManager and BlockPool (vllm/v1/core/{kv_cache_manager,single_type_kv_cache_manager,
block_pool}.py) for one group of full-attention layers. Without prefix caching the blocks have no identity, so only
their number is kept.
"""

from .compiled import entry, inner


@inner
def blocks_for(engine, tokens):
    """Blocks that hold `tokens` tokens."""
    size = engine.rules[0].block_size
    return (tokens + size - 1) // size


@inner
def missing_blocks(engine, index, tokens):
    """Blocks that the request lacks to hold `tokens` tokens; most rows lack none, and multiplying is cheaper."""
    held = engine.requests[index].held
    if tokens <= held * engine.rules[0].block_size:
        return 0
    return blocks_for(engine, tokens) - held


@inner
def exceeds_cache(engine, tokens):
    """Whether `tokens` tokens need more blocks than there are; one is the null block (BlockPool)."""
    return blocks_for(engine, tokens) > engine.rules[0].num_blocks - 1


@inner
def content_of(engine, index, block):
    """Content of block number `block` of the request."""
    request = engine.requests[index]
    if block < request.shared_count:
        return engine.shared[request.shared_start + block]
    return request.private_content + block


@entry
def count_hits(engine, index):
    """(blocks found in the cache, how many of them are in the free list): the longest run of cached leading blocks.

    At most num_tokens - 1 tokens may hit, so that one is left to compute (KVCacheManager.get_computed_blocks). A
    drafter that reads hidden states needs those of the last block found, which is computed again
    (FullAttentionManager.find_longest_cache_hit).
    """
    hits = evictable = 0
    most = (engine.requests[index].known - 1) // engine.rules[0].block_size
    last_evictable = False
    while hits < most:
        block = _cached_block(engine, content_of(engine, index, hits))
        if block == 0:
            break
        last_evictable = engine.blocks[block].refs == 0
        evictable += last_evictable
        hits += 1
    if engine.rules[0].drops_last_hit and hits > 0:
        return hits - 1, evictable - last_evictable
    return hits, evictable


@inner
def admit(engine, index, hits):
    """Give the request a row of the block table and the `hits` cached blocks that it starts with."""
    if not engine.rules[0].caching:
        return
    request, state = engine.requests[index], engine.state[0]
    state.free_slots -= 1
    slot = engine.free_slots[state.free_slots]
    request.slot = slot
    for k in range(hits):
        number = _cached_block(engine, content_of(engine, index, k))
        if engine.blocks[number].refs == 0:
            _unlink(engine, number)
            state.free_blocks -= 1
        engine.blocks[number].refs += 1
        engine.table[slot, k] = number
    request.held = request.hashed = hits


@inner
def grow(engine, index, count):
    """Give the request `count` more blocks from the front of the free list; the caller knows that there are enough."""
    request, state = engine.requests[index], engine.state[0]
    state.free_blocks -= count
    if engine.rules[0].caching:
        for k in range(request.held, request.held + count):
            number = state.free_head
            _unlink(engine, number)
            if engine.blocks[number].content >= 0:
                _forget(engine, number)
            engine.blocks[number].refs = 1
            engine.table[request.slot, k] = number
    request.held += count


@inner
def publish(engine, index, tokens):
    """Make the full blocks among the first `tokens` tokens hittable (BlockPool.cache_full_blocks), as far as all that
    their hashes cover is known."""
    if not engine.rules[0].caching:
        return
    request, size = engine.requests[index], engine.rules[0].block_size
    hashed_tokens = min(tokens, request.known - engine.rules[0].hash_lookahead)
    while (request.hashed + 1) * size <= hashed_tokens:
        k = request.hashed
        _remember(engine, engine.table[request.slot, k], content_of(engine, index, k))
        request.hashed += 1


@inner
def release(engine, index):
    """Take all blocks from the request.

    They are visited from the tail. Hashed ones join the end of the free list, so tails are evicted first; the others
    too, or they are put in front, to be used next (BlockPool.free_blocks).
    """
    request = engine.requests[index]
    if engine.rules[0].caching:
        _release_blocks(engine, request.slot, request.held)
    else:
        engine.state[0].free_blocks += request.held
    request.held = request.hashed = 0


@inner
def _release_blocks(engine, slot, held):
    state, unhashed_first = engine.state[0], engine.rules[0].reuses_unhashed_first
    for k in range(held - 1, -1, -1):
        number = engine.table[slot, k]
        block = engine.blocks[number]
        block.refs -= 1
        if block.refs == 0:
            state.free_blocks += 1
            if block.content >= 0 or not unhashed_first:
                _link_last(engine, number)
    for k in range(held if unhashed_first else 0):
        number = engine.table[slot, k]
        if engine.blocks[number].refs == 0 and engine.blocks[number].content < 0:
            _link_first(engine, number)
    engine.free_slots[state.free_slots] = slot
    state.free_slots += 1


@inner
def _unlink(engine, number):
    previous, following = engine.blocks[number].previous, engine.blocks[number].following
    if previous == 0:
        engine.state[0].free_head = following
    else:
        engine.blocks[previous].following = following
    if following == 0:
        engine.state[0].free_tail = previous
    else:
        engine.blocks[following].previous = previous


@inner
def _link_last(engine, number):
    block, tail = engine.blocks[number], engine.state[0].free_tail
    block.previous, block.following = tail, 0
    if tail == 0:
        engine.state[0].free_head = number
    else:
        engine.blocks[tail].following = number
    engine.state[0].free_tail = number


@inner
def _link_first(engine, number):
    block, head = engine.blocks[number], engine.state[0].free_head
    block.previous, block.following = 0, head
    if head == 0:
        engine.state[0].free_tail = number
    else:
        engine.blocks[head].previous = number
    engine.state[0].free_head = number


@inner
def _bucket(engine, content):
    """Where blocks of this content are found; contents are dense numbers, so their low bits spread them evenly."""
    return content & (len(engine.first_block) - 1)


@inner
def _cached_block(engine, content):
    """The block of this content, 0 if none is cached; of duplicates the one inserted first (BlockHashToBlockMap)."""
    first = engine.first_block[_bucket(engine, content)]
    number = first
    while number != 0 and engine.blocks[number].content != content:
        number = engine.blocks[number].newer
        if number == first:
            return 0
    return number


@inner
def _remember(engine, number, content):
    """Put the block at the end of its bucket's ring; duplicates are kept."""
    block, bucket = engine.blocks[number], _bucket(engine, content)
    block.content = content
    first = engine.first_block[bucket]
    if first == 0:
        engine.first_block[bucket] = number
        block.older = block.newer = number
        return
    last = engine.blocks[first].older
    engine.blocks[last].newer = engine.blocks[first].older = number
    block.older, block.newer = last, first


@inner
def _forget(engine, number):
    block = engine.blocks[number]
    bucket = _bucket(engine, block.content)
    block.content = -1
    if block.newer == number:
        engine.first_block[bucket] = 0
        return
    engine.blocks[block.older].newer = block.newer
    engine.blocks[block.newer].older = block.older
    if engine.first_block[bucket] == number:
        engine.first_block[bucket] = block.newer
