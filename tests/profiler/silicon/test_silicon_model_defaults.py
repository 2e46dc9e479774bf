"""Settings that vLLM chooses by the model."""

import pytest

from slotune.profiler.graph_sizes import captured_graph_sizes
from slotune.profiler.profile import Profile
from slotune.profiler.silicon import silicon_profile
from slotune.profiler.silicon.silicon_profile import import_silicon


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Profile:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra slotune[silicon]")
    monkeypatch.setattr(silicon_profile, "SAMPLED_STEPS", 1 << 9)
    return import_silicon("h200_sxm", "openai/gpt-oss-20b", 1, "p")


def test_graphs_of_gpt_oss_reach_1024_tokens_whatever_max_num_seqs_is(imported: Profile) -> None:
    limit = {"max_cudagraph_capture_size": 1024}
    sizes = captured_graph_sizes(imported.engine_config({}), limit).tolist()
    assert imported.step.graph_sizes.tolist() == sizes and sizes[-1] == 1024
    same, others = ({"max_num_seqs": 32}, {"cudagraph_capture_sizes": [1, 4]})
    plain, few, chosen = (imported.timing(settings).step.numbers.tolist() for settings in ({}, same, others))
    assert few == plain != chosen
