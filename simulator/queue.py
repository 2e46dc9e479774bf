"""The waiting queue: a binary heap of requests by key. One structure for both of vLLM's request queues.

FCFS appends with growing keys and prepends (a preempted request) with shrinking ones, which is a deque; PRIORITY uses
the request's rank, for which there is no front. Source: vllm/v1/core/sched/request_queue.py.
"""

from numba import njit

from .state import FINISHED, HEAP_SIZE, NUM_WAITING, QUEUE_BACK, QUEUE_FRONT


@njit(cache=True)
def append(rules, requests, engine, request):
    """A new request arrives."""
    engine.count[QUEUE_BACK] += 1
    requests.key[request] = requests.rank[request] if rules.by_priority else engine.count[QUEUE_BACK]
    push(requests, engine, request)


@njit(cache=True)
def prepend(rules, requests, engine, request):
    """A preempted request comes back."""
    engine.count[QUEUE_FRONT] -= 1
    requests.key[request] = requests.rank[request] if rules.by_priority else engine.count[QUEUE_FRONT]
    push(requests, engine, request)


@njit(cache=True)
def push(requests, engine, request):
    """Put `request` in at its key."""
    heap, key = engine.heap, requests.key
    engine.count[NUM_WAITING] += 1
    hole = engine.count[HEAP_SIZE]
    engine.count[HEAP_SIZE] += 1
    while hole > 0:
        parent = (hole - 1) // 2
        if key[heap[parent]] <= key[request]:
            break
        heap[hole] = heap[parent]
        hole = parent
    heap[hole] = request


@njit(cache=True)
def peek(requests, engine):
    """The request at the front, or -1. One that finished while it waited is dropped on the way."""
    while engine.count[HEAP_SIZE] > 0:
        request = engine.heap[0]
        if requests.status[request] < FINISHED:
            return request
        _remove_front(requests, engine)
    return -1


@njit(cache=True)
def pop(requests, engine):
    """Take the request at the front, which `peek` has returned, out."""
    engine.count[NUM_WAITING] -= 1
    _remove_front(requests, engine)


@njit(cache=True)
def _remove_front(requests, engine):
    heap, key = engine.heap, requests.key
    engine.count[HEAP_SIZE] -= 1
    size = engine.count[HEAP_SIZE]
    last = heap[size]
    hole = 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        if child + 1 < size and key[heap[child + 1]] < key[heap[child]]:
            child += 1
        if key[last] <= key[heap[child]]:
            break
        heap[hole] = heap[child]
        hole = child
    heap[hole] = last
