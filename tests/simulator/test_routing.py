"""Which replica a request goes to."""

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.simulator.routing import make_router
from slotune.tests.simulator.runs import Run, Setup, make_trace, plain_engine, run


def routed(
    router: str,
    arrival_s: list[float],
    prompt: list[int],
    output: list[int],
    runs: list[list[tuple[int, int]]] | None = None,
) -> Run:
    trace = make_trace(arrival_s, prompt, output, runs=runs)
    return run(Setup(trace, plain_engine(num_gpu_blocks=200, enable_prefix_caching=True), replicas=2, router=router))


@pytest.mark.parametrize(("router", "third"), [("least-outstanding", 0), ("least-kv", 1)])
def test_of_engines_with_as_many_requests_the_first_gets_the_next_or_that_with_more_free_blocks(
    router: str, third: int
) -> None:
    made = routed(router, [0.0, 0.02, 0.04], [320, 16, 16], [200, 200, 2])
    assert made.result.requests.replica.tolist() == [0, 1, third]


@pytest.mark.parametrize("router", ["least-outstanding", "least-kv", "prefix-aware"])
def test_an_engine_that_is_done_gets_the_next(router: str) -> None:
    made = routed(router, [0.0, 0.1, 1.0], [32, 32, 32], [400, 2, 100])
    assert made.result.requests.replica.tolist() == [0, 1, 1]


def test_a_prompt_goes_where_its_beginning_is_cached_however_many_are_there() -> None:
    first, second = [(-1, 64)], [(-2, 64)]
    made = routed(
        "prefix-aware",
        [0.0, 0.1, 0.5, 0.6, 0.7],
        [70, 70, 100, 100, 100],
        [400, 400, 2, 200, 2],
        [first, second, first, second, second],
    )
    assert made.result.requests.replica.tolist() == [0, 1, 0, 1, 1]
    assert made.result.requests.cached_tokens.tolist() == [0, 0, 64, 64, 64]


def test_a_router_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown router 'least_kv': did you mean least-kv\?"):
        make_router("least_kv", np.random.default_rng(0))
