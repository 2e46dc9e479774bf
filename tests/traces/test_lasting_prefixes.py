"""Which prefixes outlast a trace."""

import numpy as np

from slotune.traces.generate import make_trace
from slotune.traces.lasting_prefixes import _longest_absence, lasting, passing_on
from slotune.traces.lengths import constant

LENGTHS = (constant(600), constant(50))


def test_how_long_a_prefix_is_absent() -> None:
    """Of eight, the first and the sixth have it, and four lie between."""
    absent = _longest_absence(np.zeros(2, np.int64), np.array([0, 5]), 8)
    assert absent.tolist() == [4]


def test_system_prompts_last_and_conversations_pass() -> None:
    served = make_trace(200, 5.0, LENGTHS, system_prompts=2, system_prompt_tokens=300, seed=3)
    assert lasting(served).tolist() == [True, True] and not passing_on(served)
    talk = make_trace(200, 5.0, LENGTHS, turns=6, users=10, seed=3)
    assert not lasting(talk).any() and passing_on(talk)
