"""Staircases reach every part of the space."""

import numpy as np
import pytest

from slotune.profiler.measurement.design import Space, Staircase, corners, draw, forecast, halved
from slotune.simulator.features import DECODE_ROWS, MAX_CONTEXT, PREFILL_ROWS, PREFILL_TOKENS

SPACE = Space(max_num_batched_tokens=1024, max_num_seqs=32, max_model_len=4096, kv_tokens=65_536)
TINY = Space(max_num_batched_tokens=64, max_num_seqs=1, max_model_len=128, kv_tokens=128)


def test_a_lone_prompt_under_a_limit_gives_the_chunk_over_every_prior_context() -> None:
    totals = forecast(Staircase(((256,),), cap=64, decode_tokens=1), SPACE)
    assert totals[:, PREFILL_TOKENS].tolist() == [64] * 4
    assert totals[:, MAX_CONTEXT].tolist() == [0, 64, 128, 192]


def test_a_staircase_gives_prefills_mixtures_and_decodes() -> None:
    totals = forecast(Staircase(((10,), (20, 30)), cap=40, decode_tokens=3), SPACE)
    assert totals[:, PREFILL_TOKENS].tolist() == [10, 0, 0, 39, 11, 0, 0]
    assert totals[:, PREFILL_ROWS].tolist() == [1, 0, 0, 2, 1, 0, 0]
    assert totals[:, DECODE_ROWS].tolist() == [0, 1, 1, 1, 2, 3, 3]


def test_a_limit_below_the_decodes_ends_the_forecast() -> None:
    assert len(forecast(Staircase(((4,), (4,), (4,)), cap=1, decode_tokens=2), SPACE)) < 100


@pytest.mark.parametrize("space", [SPACE, TINY])
def test_what_is_drawn_fits_the_engine(space: Space) -> None:
    drawn = [*draw(space, 100, seed=1), *corners(space)]
    assert len(drawn) == 104 and space.usable_tokens < space.kv_tokens
    for staircase in drawn:
        assert 1 <= len(staircase.prompts) <= space.max_num_seqs or staircase.groups == corners(space)[0].groups
        assert max(staircase.prompts) < space.max_model_len
        assert sum(staircase.prompts) <= space.usable_tokens or staircase.groups == corners(space)[0].groups
        assert all(staircase.groups)
        assert 0 <= staircase.cap <= space.max_num_batched_tokens
        assert len(forecast(staircase, space)) > 0


def test_contexts_of_one_batch_differ_as_those_of_chat_requests_do() -> None:
    """Attention waits for the longest: batches of equal and of very unequal contexts must both be measured."""
    shares = [
        max(staircase.prompts) / np.mean(staircase.prompts)
        for staircase in draw(SPACE, 200, seed=1)
        if len(staircase.prompts) > 8
    ]
    assert min(shares) < 1.2
    assert max(shares) > 3


def test_batches_grow_one_by_one_or_by_doubling_or_come_at_once() -> None:
    shapes = {tuple(map(len, staircase.groups)) for staircase in draw(SPACE, 200, seed=1) if len(staircase.prompts) > 4}
    assert any(set(shape) == {1} for shape in shapes)
    assert any(shape[:3] == (1, 1, 2) for shape in shapes)
    assert any(len(shape) == 1 for shape in shapes)


def test_some_prompts_are_sent_alone_for_their_chunks() -> None:
    alone = [s for s in draw(SPACE, 200, seed=1) if len(s.prompts) == 1 and s.decode_tokens == 1]
    assert 10 < len(alone) < 100 and max(len(forecast(staircase, SPACE)) for staircase in alone) > 10


def test_half_of_the_scenarios_have_no_limit_but_the_engines() -> None:
    caps = [staircase.cap for staircase in draw(SPACE, 256, seed=3)]
    assert 0.45 < np.mean(np.array(caps) == SPACE.max_num_batched_tokens) < 0.6
    assert min(caps) < 32


def test_the_same_seed_draws_the_same_scenarios() -> None:
    assert draw(SPACE, 10, seed=4) == draw(SPACE, 10, seed=4)
    assert draw(SPACE, 10, seed=4) != draw(SPACE, 10, seed=5)


def test_the_corners_reach_the_limits() -> None:
    totals = np.concatenate([forecast(corner, SPACE) for corner in corners(SPACE)])
    assert totals[:, PREFILL_TOKENS].max() == SPACE.max_num_batched_tokens
    assert totals[:, DECODE_ROWS].max() == SPACE.max_num_seqs
    assert totals[:, MAX_CONTEXT].max() > 0.9 * SPACE.max_model_len


def test_halving_ends() -> None:
    staircase: Staircase | None = corners(SPACE)[3]
    work = []
    while staircase is not None:
        work.append(sum(staircase.prompts))
        staircase = halved(staircase)
    assert work == sorted(work, reverse=True)
    assert len(work) > 3
