"""Speculative decoding: what is drafted, what is accepted, and the schedule that comes of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotune.errors import InputError
from slotune.simulator.engine_config import resolve
from slotune.simulator.settings import parse_settings
from slotune.simulator.speculation import (
    Speculation,
    acceptance_rates_of,
    assume_acceptance,
    parse_speculation,
    with_drafts,
    without_acceptance,
)
from slotune.simulator.versions import rules_for
from slotune.tests.simulator.runs import Run, Setup, make_trace, plain_engine, run
from slotune.tests.simulator.test_invariants import (
    MANY,
    blocks_are_neither_negative_nor_leaked,
    every_request_ends_once,
    time_goes_forward,
)

CONFIG = {"method": "eagle", "num_speculative_tokens": 3}
LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=8)


def drafting(*rates: float, method: str = "ngram") -> Speculation:
    return Speculation(method, len(rates), rates)


def rows_of(made: Run) -> list[tuple[int, int]]:
    return [(tokens, context) for step in made.steps for _, tokens, context in step.rows]


def test_accepted_drafts_are_tokens_for_free() -> None:
    engine = plain_engine(speculative_config=drafting(1.0, 1.0))
    made = run(Setup(make_trace([0.0], [4], [7]), engine))
    assert rows_of(made) == [(4, 0), (3, 4), (3, 7)]
    assert made.result.requests.output_tokens.tolist() == [7]


def test_refused_drafts_are_computed_in_vain() -> None:
    engine = plain_engine(speculative_config=drafting(0.0, 0.0))
    made = run(Setup(make_trace([0.0], [4], [4]), engine))
    assert rows_of(made) == [(4, 0), (3, 4), (3, 5), (3, 6)]


def test_the_answer_ends_in_the_middle_of_the_accepted_drafts() -> None:
    made = run(Setup(make_trace([0.0], [4], [3]), plain_engine(speculative_config=drafting(1.0, 1.0, 1.0))))
    assert rows_of(made) == [(4, 0), (4, 4)]
    assert made.result.requests.output_tokens.tolist() == [3]


def test_drafts_count_in_the_token_budget() -> None:
    engine = plain_engine(speculative_config=drafting(0.0, 0.0, 0.0), max_num_batched_tokens=6, max_num_seqs=2)
    made = run(Setup(make_trace([0.0, 0.0], [2, 2], [2, 2]), engine))
    assert [[row[1:] for row in step.rows] for step in made.steps] == [[(2, 0), (2, 0)], [(4, 2), (2, 2)]]


def test_with_async_scheduling_the_next_row_reserves_for_all_drafts() -> None:
    """The step in flight may accept all: the next row begins behind them, and takes back what was refused."""
    engine = plain_engine(speculative_config=drafting(0.0, 0.0, method="eagle"), async_scheduling=True)
    made = run(Setup(make_trace([0.0], [4], [4]), engine))
    assert rows_of(made) == [(4, 0), (3, 4), (3, 7), (3, 8)]


@MANY
@given(LENGTHS, st.integers(1, 5), st.sampled_from([0.0, 0.4, 1.0]), st.booleans(), st.booleans(), st.integers(0, 9))
def test_every_simulation_with_drafts(
    lengths: list[tuple[int, int]], drafts: int, rate: float, overlapping: bool, caching: bool, seed: int
) -> None:
    speculation = drafting(*(rate ** (k + 1) for k in range(drafts)), method="eagle")
    limits: dict[str, Any] = {"max_num_batched_tokens": 32, "max_num_seqs": 4, "max_model_len": 120}
    modes = {"async_scheduling": overlapping, "enable_prefix_caching": caching}
    engine = plain_engine(speculative_config=speculation, num_gpu_blocks=14, **limits, **modes)
    trace = make_trace([0.0] * len(lengths), [prompt for prompt, _ in lengths], [output for _, output in lengths])
    made = run(Setup(trace, engine, seed=seed))
    every_request_ends_once(made)
    blocks_are_neither_negative_nor_leaked(made)
    time_goes_forward(made)
    assert made.result.requests.output_tokens.tolist() == trace.output_tokens.tolist()
    assert all(sum(tokens for _, tokens, _ in step.rows) <= 32 for step in made.steps)
    assert made.text == run(Setup(trace, engine, seed=seed)).text


def test_each_position_is_accepted_at_its_rate() -> None:
    accepted = drafting(0.8, 0.5, 0.1).accepted(np.array([150_000, 50_000]), seed=1)
    assert [np.mean(accepted > position) for position in range(3)] == pytest.approx([0.8, 0.5, 0.1], abs=0.005)


def test_a_rate_is_that_of_a_draft_whose_predecessors_were_accepted() -> None:
    assert acceptance_rates_of("0.5", 3) == (0.5, 0.25, 0.125)


def test_rates_come_from_a_benchmark_of_the_real_engine(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"spec_decode_per_position_acceptance_rates": [0.7, 0.4, 0.2, 0.1]}))
    assert acceptance_rates_of(str(path), 3) == (0.7, 0.4, 0.2)
    with pytest.raises(InputError, match="expected 5 acceptance rates"):
        acceptance_rates_of(str(path), 5)


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        ({"drafts": 150, "accepted": 300, "made": 1000, "completed": 100}, 0.25),
        ({"drafts": 620, "accepted": 300, "made": 1000, "completed": 100}, 1.0),  # those of requests that failed too
        ({"drafts": 150, "accepted": 900, "made": 1000, "completed": 100}, 1.0),
        ({"drafts": 0, "accepted": 0, "made": 1000, "completed": 100}, 1.0),
        ({"drafts": 150, "accepted": 300, "made": 1000}, 1.0),
        ({"drafts": 150, "accepted": 300, "made": 1000, "completed": None}, 1.0),
    ],
)
def test_rates_of_decodes_with_drafts_are_lowered_to_those_of_all_decodes(
    tmp_path: Path, counts: dict[str, Any], share: float
) -> None:
    """ngram drafts where it finds a match, and vLLM counts the others in no rate."""
    names = {"drafts": "spec_decode_num_drafts", "accepted": "spec_decode_accepted_tokens"}
    names |= {"made": "total_output_tokens", "completed": "completed"}
    result = {"spec_decode_per_position_acceptance_rates": [0.8, 0.6, 0.4]}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result | {names[name]: count for name, count in counts.items()}))
    assert acceptance_rates_of(str(path), 2) == pytest.approx((0.8 * share, 0.6 * share))


@pytest.mark.parametrize("given", ["1.5", "-0.1", "nan", "none.json"])
def test_what_is_no_acceptance_is_refused(given: str) -> None:
    with pytest.raises(InputError):
        acceptance_rates_of(given, 2)


def test_settings_carry_vllms_own_names() -> None:
    text = f"speculative_config={json.dumps(CONFIG)}"
    config = parse_settings([text], acceptance="0.5")["speculative_config"]
    assert config["synthetic_acceptance_rates"] == [0.5, 0.25, 0.125]
    assert without_acceptance(config) == CONFIG
    assert parse_speculation(config).lookahead_tokens(rules_for(None)) == 3
    with pytest.raises(InputError, match="needs --engine speculative_config"):
        parse_settings([], acceptance="0.5")


def test_a_mean_length_is_spread_as_vllm_spreads_it() -> None:
    config = CONFIG | {"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 2.5}
    assert parse_speculation(config).acceptance_rates == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"method": "eegle"}, "method 'eegle' is not one of"),
        ({"method": "eegle_mtp"}, "method 'eegle_mtp' is not one of"),
        ({"method": None}, "has no method; vLLM infers it from the draft model, here name it, one of dflash,"),
        ({"num_speculative_tokens": 0}, "must be 1 to"),
        ({"synthetic_acceptance_rates": [0.5, 0.6, 0.1]}, "not rise"),
        ({"synthetic_acceptance_rates": [0.5]}, "expected 3"),
        ({"rejection_sample_method": "standard"}, "--acceptance-rate"),
        ({"num_speculative_token": 4}, "did you mean num_speculative_tokens"),
        (
            {"num_speculative_tokens_per_batch_size": [[1, 8, 4]]},
            "num_speculative_tokens_per_batch_size is not simulated",
        ),
        ({"prompt_lookup_max": 0}, "prompt_lookup_max=0: must be a whole number, at least 1"),
        (
            {"method": "ngram", "prompt_lookup_min": 3, "prompt_lookup_max": 2},
            "prompt_lookup_min is above prompt_lookup_max",
        ),
        ({"disable_padded_drafter_batch": True}, "disable_padded_drafter_batch is not simulated"),
    ],
)
def test_what_vllm_refuses_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_speculation(assume_acceptance(CONFIG, "0.5") | changed)


@pytest.mark.parametrize("method", ["deepseek_mtp", "qwen3_next_mtp"])
def test_old_names_of_mtp_are_mtp_as_in_vllm(method: str) -> None:
    config = assume_acceptance(CONFIG | {"method": method}, "0.5")
    assert parse_speculation(CONFIG | config) == parse_speculation(config | {"method": "mtp"})
    assert parse_speculation(json.dumps(config | {"method": method})).method == "mtp"
    assert without_acceptance({"method": method}) == {"method": "mtp"}


def test_what_is_no_name_or_no_number_of_drafts_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="unknown key of speculative_config '1'"):
        parse_speculation({1: 2, **CONFIG})
    for tokens in (20_000_000, -2, True, "3"):
        with pytest.raises(InputError, match="must be 1 to 127"):
            assume_acceptance({"method": "ngram", "num_speculative_tokens": tokens}, "0.5")


def test_vllm_s_own_arguments_for_drafts_are_a_config() -> None:
    words = ["spec_method=ngram", "spec_tokens=3", "max_num_seqs=8"]
    rates = {"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [0.5, 0.25, 0.125]}
    drafts = {"method": "ngram", "num_speculative_tokens": 3}
    assert parse_settings(words) == {"max_num_seqs": 8, "speculative_config": drafts}
    assert parse_settings(words, acceptance="0.5")["speculative_config"] == drafts | rates
    both = parse_settings(["spec_tokens=3", 'speculative_config={"method": "ngram"}'])
    assert both["speculative_config"] == drafts
    with pytest.raises(InputError, match="spec_method: speculative_config has a method too"):
        parse_settings(["spec_method=ngram", 'speculative_config={"method": "ngram"}'])


def test_methods_without_async_scheduling() -> None:
    config = {"speculative_config": assume_acceptance(CONFIG | {"method": "ngram"}, "0.5")}
    assert not resolve(config, {}, 100).async_scheduling
    with pytest.raises(InputError, match="does not work with speculative method ngram"):
        resolve(config | {"async_scheduling": True}, {}, 100)


def test_a_threshold_below_the_drafts_ends_vllm_and_is_refused() -> None:
    drafting = {"speculative_config": assume_acceptance(CONFIG, "0.5"), "long_prefill_token_threshold": 3}
    with pytest.raises(InputError, match="must be above the 3 draft tokens"):
        resolve(drafting, {}, 100)
    assert resolve(drafting | {"long_prefill_token_threshold": 4}, {}, 100).long_prefill_token_threshold == 4


def test_a_change_of_drafts_is_over_those_that_there_were() -> None:
    """Of a what-if or a row among others: vLLM's own arguments too, with the acceptance that was said."""
    base = {"max_num_seqs": 8, "speculative_config": assume_acceptance(CONFIG, "0.5")}
    changed = with_drafts({"spec_tokens": 2}, base, "0.5")["speculative_config"]
    assert parse_speculation(changed).acceptance_rates == (0.5, 0.25)
    assert changed["method"] == CONFIG["method"]
    fresh = with_drafts({"spec_method": "ngram", "spec_tokens": 1}, {}, "0.5")["speculative_config"]
    assert parse_speculation(fresh).acceptance_rates == (0.5,)
    assert with_drafts({"max_num_seqs": 4}, base) == {"max_num_seqs": 4}
    assert parse_settings(["spec_tokens=2"], None, "0.5", base)["speculative_config"] == changed
    assert "synthetic_acceptance_length" not in assume_acceptance(CONFIG | {"synthetic_acceptance_length": 2}, "0.5")
    assert with_drafts({"speculative_config": None}, base, "0.5") == {"speculative_config": None}
    assert with_drafts({"block_size": 32}, {}, "0.5") == {"block_size": 32}


def test_an_acceptance_that_is_no_share_is_named_as_it_was_given() -> None:
    with pytest.raises(InputError, match=r"--acceptance-rate 70: must lie in \[0, 1\]"):
        acceptance_rates_of("70", 3)


@pytest.mark.parametrize(
    ("method", "drafted", "told"),
    [
        ("eagle3", 2048, "vLLM stops drafting, or fails, past it: not simulated"),
        ("mtp", 2048, "vLLM stops drafting, or fails, past it: not simulated"),
        ("eagle3", 9000, "vLLM refuses more"),
        ("eagle3", "2k", "must be a whole number"),
        ("eagle3", 4096, None),
        ("eagle3", None, None),
        ("ngram", 2048, None),  # which has no model
    ],
)
def test_a_drafter_with_a_shorter_context_than_the_engine_is_refused(
    method: str, drafted: Any, told: str | None
) -> None:
    config = assume_acceptance({"method": method, "num_speculative_tokens": 3, "max_model_len": drafted}, "0.5")
    asked = {"speculative_config": config, "max_model_len": 4096}
    if told is None:
        assert resolve(asked, {}, 1000).max_model_len == 4096
        return
    with pytest.raises(InputError, match=f"^speculative_config: max_model_len={drafted!r}: .*{told}".replace("'", ".")):
        resolve(asked, {}, 1000)


@pytest.mark.parametrize("method", ["custom_class", "dspark", "extract_hidden_states", "suffix"])
def test_a_method_that_vllm_has_is_said_not_to_be_simulated(method: str) -> None:
    with pytest.raises(InputError, match=f"^speculative_config: method {method} is not simulated; "):
        parse_speculation(assume_acceptance({"method": method, "num_speculative_tokens": 3}, "0.5"))
    with pytest.raises(InputError, match="method 'sufix' is not one of "):
        parse_speculation(assume_acceptance({"method": "sufix", "num_speculative_tokens": 3}, "0.5"))
