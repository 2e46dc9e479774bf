"""What is added to kernel times is what its sources say."""

import pytest

from slotune.profiler.silicon.omitted import HOPPER_MIXED_DECODES, MIXED_DECODES, OMITTED, OVERHEAD, Omitted

SOME = Omitted(gap_layer_ms=1.0, async_gap_layer_ms=2.0, eager_layer_ms=4.0)


@pytest.mark.parametrize(
    ("captured", "async_scheduling", "layer_ms"),
    [(True, False, 1.0), (False, False, 5.0), (True, True, 2.0), (False, True, 2.0)],
)
def test_a_layer_takes_more_where_no_graph_was_captured_and_the_gpu_waits_for_it(
    captured: bool, async_scheduling: bool, layer_ms: float
) -> None:
    assert SOME.layer_ms(captured, async_scheduling) == layer_ms


def test_a_step_of_32_layers_takes_more_by_what_was_seen_on_h100s() -> None:
    """2.9 ms beyond the captured sizes; the gaps of 0.7 ms are of 0.3 ms with async scheduling."""
    by_kind = [
        [32 * OMITTED.layer_ms(captured, asynchronous) for captured in (True, False)] for asynchronous in (False, True)
    ]
    assert by_kind == [pytest.approx([0.736, 0.736 + 2.88]), pytest.approx([0.32, 0.32])]
    assert (OMITTED.mixed_ms, OMITTED.sampler_ms) == (0.43, 0.1)
    assert (MIXED_DECODES, HOPPER_MIXED_DECODES) == (1.58, 1.12)


def test_a_request_spends_six_milliseconds_outside_the_steps_and_two_more_for_a_thousand_tokens() -> None:
    assert OVERHEAD.before_s + OVERHEAD.after_s == pytest.approx(0.006)
    assert 1000 * OVERHEAD.before_token_s == pytest.approx(0.002)
