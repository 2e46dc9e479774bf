"""Block contents against explicit tuples of tokens."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slotune.traces.content import block_content
from slotune.traces.trace import Trace

Request = tuple[list[tuple[int, int]], int, int]  # runs, unique prompt tokens, output tokens


def build(requests: list[Request]) -> Trace:
    runs = [run for request in requests for run in request[0]]
    return Trace(
        arrival_s=np.arange(len(requests), dtype=np.float64),
        input_tokens=np.array([sum(t for _, t in r) + unique for r, unique, _ in requests], np.int32),
        output_tokens=np.array([output for _, _, output in requests], np.int32),
        priority=np.zeros(len(requests), np.int32),
        run_offsets=np.cumsum([0] + [len(r) for r, _, _ in requests], dtype=np.int64),
        run_name=np.array([name for name, _ in runs], np.int64),
        run_tokens=np.array([tokens for _, tokens in runs], np.int32),
    )


def tokens_of(index: int, request: Request) -> list[object]:
    runs, unique, output = request
    tokens: list[object] = [(name, p) for name, length in runs for p in range(length)]
    if unique:
        return tokens + [("private", index, p) for p in range(unique + output)]
    return tokens + [("output", p) for p in range(output)]


def chained_blocks(requests: list[Request], block_size: int, lookahead: int) -> list[list[tuple[object, ...]]]:
    """Every full block of every request as the tuple of all tokens up to its end, and `lookahead` more."""
    result = []
    for index, request in enumerate(requests):
        tokens = tokens_of(index, request)
        ends = range(block_size + lookahead, len(tokens) + 1, block_size)
        result.append([tuple(tokens[:end]) for end in ends])
    return result


def assert_matches(requests: list[Request], block_size: int, lookahead: int) -> None:
    content = block_content(build(requests), block_size, lookahead)
    chains = chained_blocks(requests, block_size, lookahead)
    count = Counter(chain for blocks in chains for chain in blocks)
    shared = [[chain for chain in blocks if count[chain] > 1] for blocks in chains]
    dense: dict[object, int] = {}
    expected = [[dense.setdefault(chain, len(dense)) for chain in blocks] for blocks in shared]
    assert [part.tolist() for part in np.split(content.ids, content.offsets[1:-1])] == expected
    assert content.shared_count == len(dense)


run = st.tuples(st.integers(0, 3), st.integers(0, 9))
request = st.tuples(st.lists(run, max_size=4), st.integers(0, 6), st.integers(1, 12)).filter(
    lambda r: sum(t for _, t in r[0]) + r[1] > 0
)


@given(st.lists(request, min_size=1, max_size=8), st.sampled_from([1, 2, 4, 5]), st.sampled_from([0, 0, 1, 6]))
@settings(max_examples=600)
def test_blocks_are_equal_exactly_when_all_tokens_before_are(
    requests: list[Request], block_size: int, lookahead: int
) -> None:
    assert_matches(requests, block_size, lookahead)


def test_same_name_shares_up_to_the_shorter_length() -> None:
    content = block_content(build([([(7, 10)], 1, 1), ([(7, 6)], 9, 1)]), 2)
    assert content.ids.tolist() == [0, 1, 2, 0, 1, 2]
    assert content.offsets.tolist() == [0, 3, 6]


def test_outputs_of_identical_prompts_are_shared_with_the_straddling_block() -> None:
    content = block_content(build([([(7, 6)], 0, 4), ([(7, 6)], 0, 7), ([(7, 6)], 3, 7)]), 4)
    assert [part.tolist() for part in np.split(content.ids, content.offsets[1:-1])] == [[0, 1], [0, 1], [0]]


def test_the_table_grows_past_its_first_size() -> None:
    requests: list[Request] = [([(i // 2, 4)], 1, 1) for i in range(20_000)]
    content = block_content(build(requests), 2)
    assert content.shared_count == 20_000
    assert content.ids.tolist() == [c for i in range(10_000) for c in (2 * i, 2 * i + 1) * 2]
