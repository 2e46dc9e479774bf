"""The waiting queue: a binary heap of requests by key. One structure for both of vLLM's request queues.

FCFS appends with growing keys and prepends (a preempted request) with shrinking ones, which is a deque; PRIORITY uses
the request's rank, for which there is no front. Source: vllm/v1/core/sched/request_queue.py.
"""

from .compiled import inner
from .request_table import FINISHED

FIRST = 1 << 40
"""Keys from -FIRST up, by far the lowest, are those of skipped_waiting."""


@inner
def append(engine, index):
    """A new request arrives."""
    request, state = engine.requests[index], engine.state[0]
    state.queue_back += 1
    request.key = request.rank if engine.rules[0].by_priority else state.queue_back
    push(engine, index)


@inner
def prepend(engine, index):
    """A preempted request comes back."""
    request, state = engine.requests[index], engine.state[0]
    state.queue_front -= 1
    request.key = request.rank if engine.rules[0].by_priority else state.queue_front
    push(engine, index)


@inner
def put_back(engine, index):
    """A request that was passed over comes back to its place.

    Before vLLM 0.31 FCFS had a second queue for those, skipped_waiting, which was emptied first.
    """
    request, rules, state = engine.requests[index], engine.rules[0], engine.state[0]
    if not rules.queues_skipped_with_others and not rules.by_priority and request.key > -FIRST // 2:
        state.queue_back += 1
        request.key = state.queue_back - FIRST
    push(engine, index)


@inner
def push(engine, index):
    """Put the request in at its key."""
    heap, requests, state = engine.heap, engine.requests, engine.state[0]
    key = requests[index].key
    state.num_waiting += 1
    hole = state.heap_size
    state.heap_size += 1
    while hole > 0:
        parent = (hole - 1) // 2
        if requests[heap[parent]].key <= key:
            break
        heap[hole] = heap[parent]
        hole = parent
    heap[hole] = index


@inner
def peek(engine):
    """The request at the front, or -1. One that finished while it waited is dropped on the way."""
    while engine.state[0].heap_size > 0:
        index = engine.heap[0]
        if engine.requests[index].status < FINISHED:
            return index
        _remove_front(engine)
    return -1


@inner
def pop(engine):
    """Remove the request at the front, which `peek` has returned."""
    engine.state[0].num_waiting -= 1
    _remove_front(engine)


@inner
def _remove_front(engine):
    heap, requests, state = engine.heap, engine.requests, engine.state[0]
    state.heap_size -= 1
    size = state.heap_size
    last = heap[size]
    hole = 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        if child + 1 < size and requests[heap[child + 1]].key < requests[heap[child]].key:
            child += 1
        if requests[last].key <= requests[heap[child]].key:
            break
        heap[hole] = heap[child]
        hole = child
    heap[hole] = last
