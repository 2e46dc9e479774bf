"""The report's pictures show what decides: every goal and every target that a setting moves."""

import re

import pytest

from slotune.simulator.slo import Slo
from slotune.tuner.objective import Goal, Objective
from slotune.tuner.pages.pictures import criteria, effects_section, trials_picture
from slotune.tuner.pages.plots import TrialPoint, objective_over_trials
from slotune.tuner.pages.sweep import OneChange
from slotune.tuner.study.study import Trial

TARGET = (Slo(99.0, "ttft", 200.0),)
FAST = (Goal("output_throughput", True),)
RATIO = "worst latency / target"


def metrics(output_throughput, p99_ttft_ms):
    return {"output_throughput": output_throughput, "p99_ttft_ms": p99_ttft_ms, "completed": 9.0, "failed": 0.0}


def labels(svg):
    """Words of a picture in order: names of axes and titles of panels, no numbers."""
    return [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if re.search("[a-z]", text)]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Objective(TARGET, FAST), ["output_throughput", RATIO]),
        (Objective(TARGET), [RATIO]),
        (Objective((), FAST), ["output_throughput"]),
        (Objective((), (), {"ttft": 200.0}), ["request_goodput"]),
        (Objective(TARGET, (*FAST, Goal("mean_ttft_ms", False))), ["output_throughput", "mean_ttft_ms", RATIO]),
    ],
)
def test_goals_and_targets_decide(objective, expected):
    assert [criterion.label for criterion in criteria(objective)] == expected


def changes(name, *found):
    return [OneChange(name, value, one) for value, one in enumerate(found)]


def test_each_goal_and_the_targets_have_a_picture_of_the_settings_that_move_them():
    varied = [
        *changes("both", metrics(100.0, 100.0), metrics(200.0, 300.0)),
        *changes("latency", metrics(200.0, 150.0), metrics(200.0, 900.0)),
        *changes("neither", metrics(200.0, 150.0), metrics(201.0, 150.1)),
    ]
    section = effects_section(varied, Objective(TARGET, FAST), {})
    assert [labels(picture) for picture in section["pictures"]] == [
        ["output_throughput", "both"],
        [RATIO, "latency", RATIO, "both"],
    ]
    assert section["without"] == "neither"


def test_a_goal_that_nothing_moves_has_no_picture():
    """At a rate that is given, throughput is that of the arrivals: flat lines told nobody anything."""
    varied = changes("latency", metrics(200.0, 150.0), metrics(200.0, 900.0))
    section = effects_section(varied, Objective(TARGET, FAST), {})
    assert [labels(picture) for picture in section["pictures"]] == [[RATIO, "latency"]]
    assert effects_section([], Objective(TARGET, FAST), {}) is None


def test_a_value_that_cannot_run_is_an_effect():
    section = effects_section(changes("graphs", metrics(200.0, 150.0), None), Objective((), FAST), {"graphs": 0})
    assert "✗" in section["pictures"][0]


@pytest.mark.parametrize(("p99_ttft_ms", "label"), [(150.0, "output_throughput"), (201.0, RATIO)])
def test_trials_are_shown_by_the_targets_until_one_meets_them(p99_ttft_ms, label):
    trials = [
        Trial({"max_num_seqs": 8 + number}, metrics(100.0, value), number=number)
        for number, value in enumerate((900.0, p99_ttft_ms))
    ]
    assert label in labels(trials_picture(trials, Objective(TARGET, FAST)))


def test_values_that_differ_in_their_last_digits_alone_stand_on_an_axis_with_numbers():
    values = (0.44201120011074085, 0.44201120011074074)
    points = [TrialPoint(number, values[number % 2], True) for number in range(30)]
    svg = objective_over_trials(points, RATIO, lower_is_better=True)
    numbers = [float(text) for text in re.findall(r"<text[^>]*>([\d.]+)</text>", svg)]
    assert any(0.3 < number < 0.6 for number in numbers)


def test_nothing_is_drawn_of_what_has_no_value_anywhere():
    """Where too many requests go unanswered whatever the setting, the ratio to a target is infinite."""
    lost = {"p99_ttft_ms": 90.0, "completed": 50.0, "failed": 1.0}
    variations = [OneChange("max_num_seqs", value, lost) for value in (8, 16)]
    assert effects_section(variations, Objective(TARGET), {"max_num_seqs": 8}) is None
    some = [*variations, OneChange("max_num_seqs", 32, metrics(1.0, 90.0))]
    section = effects_section(some, Objective(TARGET), {"max_num_seqs": 8})
    assert section is not None and len(section["pictures"]) == 1


def test_a_value_far_beyond_the_target_leaves_the_others_their_scale():
    """p99 TTFT over a target of 200 ms: 27 times it, 1.5 times it and within."""
    far = [*changes("far", metrics(1.0, 150.0), metrics(1.0, 5400.0)), *changes("near", metrics(1.0, 300.0))]
    (picture,) = effects_section([*far, *changes("near", metrics(1.0, 90.0))], Objective(TARGET), {"far": 0})[
        "pictures"
    ]
    assert picture.count("↑27<") == 1
    numbers = [float(text) for text in re.findall(r"<text[^>]*>([\d.]+)</text>", picture)]
    assert max(numbers) <= 2
    (picture,) = effects_section(changes("all", metrics(1.0, 1800.0), metrics(1.0, 5400.0)), Objective(TARGET), {})[
        "pictures"
    ]
    assert "↑9" not in picture


def test_red_lines_are_explained_where_there_are_some_and_trials_have_whole_numbers():
    points = [TrialPoint(number, 1.0 + number, True) for number in range(3)]
    for some, told in ((points, "trial"), ([*points, TrialPoint(3, float("nan"), False)], "trial (red line: failed")):
        svg = objective_over_trials(some, RATIO, lower_is_better=True)
        assert any(text.startswith(told) for text in labels(svg))
        assert ("red line" in svg) == (some != points)
        ticks = re.findall(r'<g id="xtick_\d+">.*?<text[^>]*>([^<]*)<', svg, re.DOTALL)
        assert len(ticks) > 1 and all(tick.isdecimal() for tick in ticks)
