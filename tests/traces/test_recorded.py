"""The public traces: what their publishers and readers say of them comes out of ours."""

from pathlib import Path

import pytest

from slotune.traces.content import block_content
from slotune.traces.mooncake import write_trace
from slotune.traces.read import read_trace
from slotune.traces.stats import trace_stats


@pytest.mark.parametrize(
    ("file", "requests", "duration_s", "rate", "cv", "prompt", "output", "block_hits"),
    [
        ("azure2023/AzureLLMInferenceTrace_conv.csv", 19_366, 3502, 5.53, 1.09, (1155, 1020, 4142), (211, 129, 601), 0),
        ("azure2023/AzureLLMInferenceTrace_code.csv", 8_819, 3436, 2.57, 13.15, (2048, 1469, 7436), (28, 13, 252), 0),
        ("mooncake/conversation_trace.jsonl", 12_031, 3537, 3.40, 3.03, (12035, 6909, 85401), (343, 350, 1120), 0.366),
        ("mooncake/synthetic_trace.jsonl", 3_993, 1022, 3.91, 1.01, (15325, 11587, 66456), (149, 69, 768), 0.640),
    ],
)
def test_a_published_trace_has_its_published_figures(
    shared: Path,
    file: str,
    requests: int,
    duration_s: float,
    rate: float,
    cv: float,
    prompt: tuple[int, int, int],
    output: tuple[int, int, int],
    block_hits: float,
) -> None:
    stats = trace_stats(read_trace(shared / "traces" / file))
    assert stats["requests"] == requests
    assert stats["duration_s"] == pytest.approx(duration_s, abs=0.5)
    assert stats["request_rate"] == pytest.approx(rate, abs=0.005)
    assert stats["interarrival_cv"] == pytest.approx(cv, abs=0.005)
    for figures, name in ((prompt, "prompt_tokens"), (output, "output_tokens")):
        assert [stats[name][key] for key in ("mean", "p50", "p99")] == pytest.approx(figures, rel=0.005)
    assert stats["prefix_block_hit_share"] == pytest.approx(block_hits, abs=0.0005)


@pytest.mark.parametrize(
    ("file", "requests", "prompt", "output"),
    [
        (
            "arxiv/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
            28_257,
            (2588, 2730, 3933),
            (291, 167, 3270),
        ),
        ("sharegpt/sharegpt_val_10k_llama2.csv", 10_000, (246, 35, 2862), (326, 286, 1000)),
    ],
)
def test_lengths_without_arrivals(
    shared: Path, file: str, requests: int, prompt: tuple[int, int, int], output: tuple[int, int, int]
) -> None:
    stats = trace_stats(read_trace(shared / "traces" / file))
    assert (stats["requests"], stats["duration_s"], stats["request_rate"]) == (requests, 0.0, None)
    for figures, name in ((prompt, "prompt_tokens"), (output, "output_tokens")):
        assert [stats[name][key] for key in ("mean", "p50", "p99")] == pytest.approx(figures, rel=0.0025)


def test_mooncakes_blocks_are_all_that_its_hash_ids_say(shared: Path, tmp_path: Path) -> None:
    """In blocks of 512 the listed contents are exactly the full blocks of hash ids that occur twice."""
    trace = read_trace(shared / "traces/mooncake/conversation_trace.jsonl")
    write_trace(trace, tmp_path / "t.jsonl")
    again = read_trace(tmp_path / "t.jsonl")
    assert again.run_name.tolist() == trace.run_name.tolist()
    assert again.arrival_s.tolist() == trace.arrival_s.tolist()
    full: dict[int, int] = {}
    for name, tokens in zip(trace.run_name.tolist(), trace.run_tokens.tolist(), strict=True):
        full[name] = full.get(name, 0) + (tokens == 512)
    content = block_content(trace, 512)
    prompt_blocks = sum(count for count in full.values() if count > 1)
    assert len(content.ids) == pytest.approx(prompt_blocks, rel=0.001)  # some wholly equal prompts share outputs too
    assert content.shared_count == pytest.approx(sum(count > 1 for count in full.values()), rel=0.001)
