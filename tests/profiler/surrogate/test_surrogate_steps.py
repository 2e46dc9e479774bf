"""Which time belongs to which recorded step."""

import gzip
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slotune.errors import InputError
from slotune.profiler.profile_folder import load_profile
from slotune.profiler.surrogate.steps import samples_of, samples_of_files
from slotune.simulator.features import totals_of
from slotune.simulator.step_time import step_times_s
from slotune.simulator.steps import StepRecord
from slotune.tests.step_lines import format_step

DRAFTS = "speculative_config=" + json.dumps(
    {
        "method": "eagle3",
        "num_speculative_tokens": 3,
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_rates": [0.5, 0.25, 0.125],
    }
)


def step(start_ms: float, end_ms: float, *requests: str, context: int = 10, replica: int = 0) -> StepRecord:
    rows = tuple((request, 1, context) for request in requests)
    return StepRecord(0, start_ms / 1e3, end_ms / 1e3, rows, replica=replica)


def durations_ms(*records: StepRecord, drafts: int = 0) -> list[float]:
    return np.round(samples_of(records, drafts).duration_s * 1e3, 6).tolist()


def test_while_a_request_goes_on_the_gap_between_steps_counts() -> None:
    assert durations_ms(step(0, 10, "a"), step(12, 20, "a", context=11), step(21, 30, "b", "a", context=12)) == [
        10,
        10,
        10,
    ]


def test_idle_time_does_not_count() -> None:
    assert durations_ms(step(0, 10, "a"), step(500, 520, "b")) == [10, 20]


def test_idle_time_before_another_request_of_the_same_name_does_not_count() -> None:
    prompt, again = replace(step(0, 10), rows=(("a", 100, 0),)), step(500, 520)
    for context in (0, 16):  # of which 16 tokens are found in the prefix cache
        other = replace(again, rows=(("a", 84, context),))
        assert durations_ms(prompt, other) == [10, 20], "after an answer of one token"
        assert durations_ms(prompt, step(10, 20, "a", context=100), other) == [10, 10, 20]


def test_while_drafts_are_refused_the_gap_between_steps_counts() -> None:
    first, second = (replace(step(*times), rows=(("a", 4, 10 + k),)) for k, times in enumerate([(0, 10), (12, 20)]))
    assert durations_ms(first, second, drafts=3) == [10, 10]
    assert durations_ms(first, second) == [10, 8], "an engine without drafts begins another request there"


def test_steps_that_overlap_are_timed_from_end_to_end() -> None:
    assert durations_ms(step(0, 10, "a"), step(2, 18, "b"), step(11, 26, "c")) == [10, 8, 8]


def test_a_missing_step_s_time_is_not_charged_to_the_next() -> None:
    first, _, third = (replace(step(10 * k, 10 * k + 10, "a"), step=k) for k in range(3))
    assert durations_ms(first, replace(third, start_s=0.021)) == [10, 9]
    assert durations_ms(first, replace(third, start_s=0.009)) == [10], "how much of it was the missing step's?"


def test_under_async_scheduling_a_step_after_a_missing_one_has_waited_for_it() -> None:
    """Each is scheduled when the one before it begins: that after the missing one when the last that is there ends."""
    records = [replace(step(10 * k - 9.9, 10 * k + 10, "a"), step=k) for k in range(5)]
    assert durations_ms(*records[:2], *records[3:]) == [19.9, 10, 10]


@pytest.mark.parametrize(("replica", "refused"), [(0, True), (1, False)])
def test_records_out_of_order_are_refused(tmp_path: Path, replica: int, refused: bool) -> None:
    """Most of their durations would be negative, and what is left of them would be a fit."""
    path = tmp_path / "steps.jsonl"
    records = (step(20, 30, "a"), step(10, 20, "a", replica=replica))
    path.write_text("".join(format_step(record, with_replica=True) + "\n" for record in records))
    with pytest.raises(InputError, match=r"step 0 ends before .* a file of its own") if refused else nullcontext():
        assert len(samples_of_files([path])) == 2


@pytest.mark.parametrize(("kept", "refused"), [([0, 3, 6, 9], True), ([0, 3, 4, 9], False), ([0, 1, 2, 3], False)])
def test_every_nth_step_tells_no_step_time(tmp_path: Path, kept: list[int], refused: bool) -> None:
    """Of an engine that schedules ahead each would seem twice as long, since the one before it had not ended."""
    steps = [replace(step(10 * k, 10 * k + 19, "a", context=10 + k), step=k) for k in range(10)]
    (tmp_path / "s.jsonl").write_text("\n".join(format_step(steps[k], False) for k in kept))
    with pytest.raises(InputError, match="no two steps follow each other") if refused else nullcontext():
        samples = samples_of_files([tmp_path / "s.jsonl"])
        assert np.allclose(samples.duration_s[1:], 0.01), "from end to end, and none after a missing one"


def test_replicas_do_not_time_each_other() -> None:
    records = [step(0, 10, "a"), step(5, 9, "b", replica=1), step(10, 20, "a"), step(9, 13, "b", replica=1)]
    assert durations_ms(*records) == [10, 10, 4, 4], "one replica after the other"


def test_steps_without_rows_or_time_are_no_samples() -> None:
    assert durations_ms(step(0, 10, "a"), step(10, 10, "a"), step(10, 12)) == [10]


def test_a_file_without_steps_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text('{"trailer": true}\n')
    with pytest.raises(InputError, match="holds no step"):
        samples_of_files([path])


def test_fit_on_the_command_line(tmp_path: Path, slotune: Callable[..., tuple[int, str, str]]) -> None:
    lines, now = [], 0.0
    for tokens in range(2, 60):
        lines.append(f'{{"step":1,"start_ms":{now},"end_ms":{now + 5 + tokens},"rows":[["r{tokens}",{tokens},0]]}}')
        now += 5 + tokens
    (tmp_path / "steps.jsonl").write_text("\n".join(lines))
    code, out, _ = slotune("profile", "fit", tmp_path / "steps.jsonl", "--out", tmp_path / "p")
    assert code == 0
    assert "prefill_tokens 1," in out and "held-out" in out.lower()
    model = load_profile(tmp_path / "p").timing().step
    assert step_times_s(model, totals_of(np.array([40]), np.array([0]))[None])[0] == pytest.approx(0.045)
    assert (tmp_path / "p" / "steps.parquet").is_file()
    code, _, err = slotune("profile", "fit", tmp_path / "steps.jsonl", "--out", tmp_path)
    assert code == 2 and "not a profile" in err


def overlapping(*rows: tuple[str, int]) -> str:
    """Steps of 20 ms, each beginning 10 ms after the one before: (request, context) of the one row of each."""
    steps = (
        {"step": k, "start_ms": 10.0 * k, "end_ms": 10.0 * k + 20, "rows": [[name, 1, context]]}
        for k, (name, context) in enumerate(rows)
    )
    return "".join(json.dumps(step) + "\n" for step in steps)


def test_pipeline_stages_and_engines_that_are_not_told_apart_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text(overlapping(*((name, k) for k in range(20) for name in "ab")))
    with pytest.raises(InputError, match="40 steps 39 overlap the one before them and share no request"):
        samples_of_files([file])
    file.write_text(overlapping(*(("a", k) for k in range(40))))
    assert len(samples_of_files([file])) == 40


def test_pipeline_stages_are_refused_also_where_the_recorder_has_cut_what_overlaps(tmp_path: Path) -> None:
    """It begins a step where the one before it ended. Requests that take turns betray the stages."""
    file = tmp_path / "steps.jsonl"

    def write(*rows: tuple[str, int]) -> None:
        steps = (replace(step(10 * k, 10 * k + 10, name, context=at), step=k) for k, (name, at) in enumerate(rows))
        file.write_text("".join(format_step(one, with_replica=False) + "\n" for one in steps))

    for stages in ("ab", "abc", "abcd"):
        write(*((name, k) for k in range(20) for name in stages))
        with pytest.raises(InputError, match=rf"in {19 * len(stages)} of {20 * len(stages)} steps .* pipeline stages"):
            samples_of_files([file])
    write(*((name, k) for name in "ab" for k in range(20)))
    assert len(samples_of_files([file])) == 40


def test_a_last_line_that_was_cut_off_takes_no_other_with_it(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text(numbered(1, 2, 3)[:-20])
    assert len(samples_of_files([file])) == 2
    file.write_text(numbered(1, 2, 3)[:-20] + "\n")
    with pytest.raises(InputError, match=r"steps\.jsonl:3: not JSON"):
        samples_of_files([file])


@pytest.mark.parametrize(("kept", "steps"), [(None, 3), (-20, 2)], ids=["after a line", "within one"])
def test_zeros_that_a_loss_of_power_left_at_the_end_take_no_step_with_them(
    tmp_path: Path, kept: int | None, steps: int
) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text(numbered(1, 2, 3)[:kept] + 3000 * "\0")
    assert len(samples_of_files([file])) == steps
    file.write_text(3000 * "\0")
    with pytest.raises(InputError, match=r"steps\.jsonl:1: not JSON"):
        samples_of_files([file])


def test_a_compressed_file_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl.gz"
    file.write_bytes(gzip.compress(numbered(1, 2, 3).encode()))
    with pytest.raises(InputError, match=r"steps\.jsonl\.gz: is compressed with gzip; unpack it first"):
        samples_of_files([file])
    file.write_bytes("{} é".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read as step records"):
        samples_of_files([file])


def numbered(*numbers: int, apart_ms: float = 10) -> str:
    """Steps of 20 ms of one request, each beginning `apart_ms` after the one before."""
    steps = (replace(step(apart_ms * k, apart_ms * k + 20, "a"), step=n) for k, n in enumerate(numbers))
    return "".join(format_step(one, with_replica=False) + "\n" for one in steps)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (numbered(1, 1, 2, 2, 3, 3), True),
        (numbered(1, 90, 2, 91, 3, 92), True),
        (numbered(1, 2, 3, 4), False),
        (numbered(0, 0, 0, 0), False),
        (numbered(1, 2, 0, 1, 2, apart_ms=20), False),
        ("".join(2 * line for line in numbered(1, 2, 3).splitlines(keepends=True)), False),
    ],
    ids=["same numbers", "other numbers", "one, async", "numbers are not known", "restarted", "each line twice"],
)
def test_engines_that_serve_requests_of_the_same_names_are_refused(tmp_path: Path, text: str, refused: bool) -> None:
    """Merged by time, each would be charged the time since the other's last step: half of its own."""
    (tmp_path / "steps.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"step \d overlaps .* several engines") if refused else nullcontext():
        assert len(samples_of_files([tmp_path / "steps.jsonl"]))


@pytest.mark.parametrize("end_ms", ["NaN", "Infinity"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, end_ms: str) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text('{"step": 0, "start_ms": 0, "end_ms": ' + end_ms + ', "rows": [["a", 1, 1]]}\n')
    with pytest.raises(InputError, match=r"steps\.jsonl:1: .*is no time"):
        samples_of_files([file])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", "1.9"),
        ("tokens", "true"),
        ("tokens", '"7"'),
        ("tokens", "1e30"),
        ("tokens", "Infinity"),
        ("context", "0.5"),
        ("step", "Infinity"),
        ("step", "null"),
        ("free_blocks", "Infinity"),
        ("start_ms", '"0"'),
        ("end_ms", "1" + 400 * "0"),
    ],
)
def test_a_number_that_is_none_is_refused_with_its_line(tmp_path: Path, name: str, value: str) -> None:
    sound = {"step": "1", "start_ms": "0", "end_ms": "5", "tokens": "7.0", "context": "0", "free_blocks": "9"}

    def line(**given: str) -> str:
        one = sound | given
        rows = f'[["a", {one.pop("tokens")}, {one.pop("context")}]]'
        return "{" + ", ".join(f'"{key}": {text}' for key, text in one.items()) + f', "rows": {rows}}}\n'

    file = tmp_path / "steps.jsonl"
    file.write_text(line())
    assert len(samples_of_files([file])) == 1
    file.write_text(line() + line(**{name: value}))
    with pytest.raises(InputError, match=r"steps\.jsonl:2: not a step record: "):
        samples_of_files([file])


def test_lists_in_lists_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text(100_000 * "[")
    with pytest.raises(InputError, match=r"steps\.jsonl:1: not JSON"):
        samples_of_files([tmp_path / "steps.jsonl"])


def test_what_a_drafting_engine_was_seen_to_do_is_predicted_of_one(tmp_path: Path, slotune: Callable[..., Any]) -> None:
    """Steps that verify drafts are the same kind of step in the fit as in the simulation."""
    trace, drafting = tmp_path / "t.jsonl", ("--engine", DRAFTS)
    lengths = ("--prompt-tokens", "200/150/900", "--output-tokens", "60/50/200")
    assert slotune("trace", "make", "--requests", 400, "--rate", 12, *lengths, "--out", trace).code == 0
    steps, run = tmp_path / "steps.jsonl", ("simulate", "--trace", trace, *drafting, "--json")
    true = json.loads(slotune(*run, "--profile", "h200-llama-3.1-8b", "--steps-out", steps).out)["metrics"]
    fitted = ("--engine", DRAFTS, "--out", tmp_path / "seen")
    assert slotune("profile", "fit", steps, *fitted).code == 0
    seen = json.loads(slotune(*run, "--profile", tmp_path / "seen").out)
    assert seen["metrics"]["mean_tpot_ms"] == pytest.approx(true["mean_tpot_ms"], rel=0.02)
    assert seen["trust"]["extrapolated_share"] < 0.02
    plain = 'speculative_config={"method": "eagle3", "num_speculative_tokens": 3}'
    fitted = ("profile", "fit", steps, "--engine", plain, "--acceptance-rate", "0.5", "--out", tmp_path / "given")
    assert slotune(*fitted).code == 0
    run = ("simulate", "--trace", trace, "--profile", tmp_path / "given", "--json")
    assert json.loads(slotune(*run).out)["metrics"] == seen["metrics"], "the profile's own engine drafts"
    fewer = json.loads(slotune(*run, "--acceptance-rate", "0.1").out)
    assert fewer["metrics"]["mean_tpot_ms"] > 1.2 * true["mean_tpot_ms"]
    assert fewer["trust"]["not_represented"] == [], "how many drafts are accepted is no matter of the steps' time"


def test_prompts_in_one_step_of_an_engine_that_was_seen_to_cut_them_have_no_known_error(
    tmp_path: Path, slotune: Callable[..., Any]
) -> None:
    """They are less than one in a hundred of the steps, and all of the TTFT."""
    trace, steps, seen = tmp_path / "t.jsonl", tmp_path / "steps.jsonl", tmp_path / "seen"
    lengths = ("--prompt-tokens", "2500/7000", "--output-tokens", "200/400")
    assert slotune("trace", "make", "--requests", 60, "--rate", 1, *lengths, "--out", trace).code == 0
    cut, whole = (("--engine", f"max_num_batched_tokens={tokens}") for tokens in (256, 8192))
    run = ("simulate", "--trace", trace, "--profile")
    assert slotune(*run, "h200-llama-3.1-8b", *cut, "--steps-out", steps).code == 0
    assert slotune("profile", "fit", steps, *cut, "--out", seen).code == 0
    assert json.loads(slotune(*run, seen, "--json").out)["sensitivity"] is not None
    asked = slotune(*run, seen, *whole)
    assert "of those with a prefill, are more than twice as large as any" in asked.out and "slower" not in asked.out
    told = json.loads(slotune(*run, seen, *whole, "--json").out)
    assert told["trust"]["extrapolated_share"] < 0.05 < told["trust"]["far_share"]
    assert told["sensitivity"] is None


def test_prefills_that_are_held_back_are_no_pipeline_stages(tmp_path: Path, slotune: Callable[..., Any]) -> None:
    """vLLM 0.33 lets them go on in every second step, while decodes are in all of them."""
    trace, profile, steps = tmp_path / "t.jsonl", tmp_path / "linear", tmp_path / "steps.jsonl"
    terms = ("--base-ms", 5, "--prefill-token-ms", 0.02, "--decode-seq-ms", 0.05, "--context-token-ms", 0.00002)
    assert slotune("profile", "linear", *terms, "--vllm-version", "0.33.0", "--out", profile).code == 0
    lengths = ("--prompt-tokens", "3000/6000", "--output-tokens", "100/200")
    assert slotune("trace", "make", "--requests", 60, "--rate", 4, *lengths, "--out", trace).code == 0
    held = ("--engine", "prefill_schedule_interval=2", "--engine", "max_num_batched_tokens=256")
    run = ("simulate", "--profile", profile, "--trace", trace, *held, "--max-concurrency", 4)
    assert slotune(*run, "--steps-out", steps).code == 0
    assert slotune("profile", "fit", steps, "--vllm-version", "0.33.0", *held, "--out", tmp_path / "p").code == 0
