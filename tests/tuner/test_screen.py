"""A list or a grid becomes a sorted table; what cannot run is a row with its reason."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest

from slotune.errors import InfeasibleError, InputError
from slotune.profiler.kv_capacity import GIB, KvCapacity
from slotune.simulator.slo import Slo
from slotune.tuner.evaluate import SimulatedRun
from slotune.tuner.objective import Objective
from slotune.tuner.screen import (
    _latency,
    check_metric,
    document,
    meets,
    read_configurations,
    require_targets,
    screen,
    trust_of,
    write_csv,
)


def written(tmp_path, text):
    path = tmp_path / "configs.yaml"
    path.write_text(text)
    return path


def test_a_grid_is_every_combination(tmp_path):
    assert read_configurations(written(tmp_path, "max_num_seqs: [8, 16]\nenable-prefix-caching: [true, false]")) == [
        {"max_num_seqs": 8, "enable_prefix_caching": True},
        {"max_num_seqs": 8, "enable_prefix_caching": False},
        {"max_num_seqs": 16, "enable_prefix_caching": True},
        {"max_num_seqs": 16, "enable_prefix_caching": False},
    ]


def test_a_list_is_taken_as_it_is(tmp_path):
    assert read_configurations(written(tmp_path, '[{"max_num_seqs": 8}, {}]')) == [{"max_num_seqs": 8}, {}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{max_num_seq: 8}]", "entry 1: unknown engine setting 'max_num_seq': did you mean max_num_seqs"),
        ("[{max_num_seqs: many}]", "entry 1: max_num_seqs takes int, not 'many'"),
        ("max_num_seqs: 8", "max_num_seqs: a grid needs a list of values, not 8"),
        ("max_num_seqs: [8]\nmax-num-seqs: [9]", "max_num_seqs is named twice, under two spellings"),
        (
            "max_num_seqs: [8]\nblock_size: [16]\nmax_num_seqs: [9]",
            "line 3: max_num_seqs is named twice",
        ),
        ('[{}, {"max_num_seqs": 8, "max_num_seqs": 8}]', "line 1: max_num_seqs is named twice"),
        ("max_num_seqs: []", "a grid needs a list of values"),
        ("[]", "expected a list of settings or a grid"),
        ("just words", "expected a list of settings or a grid"),
        ("[{", "neither YAML nor JSON"),
        (
            "a: [1,2,3,4,5,6,7,8,9,10]\n" * 1 + "".join(f"a{i}: [1,2,3,4,5,6,7,8,9,10]\n" for i in range(7)),
            "thin it out",
        ),
    ],
)
def test_bad_files_get_one_clear_line(tmp_path, text, message):
    with pytest.raises(InputError, match=r"configs\.yaml") as error:
        read_configurations(written(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


CONFIGURATIONS = [{"max_num_seqs": n} for n in (1, 64, 8)] + [{"max_num_seqs": 4, "max_num_batched_tokens": 2}]


@pytest.fixture
def screened(small_profile, small_trace):
    def rows(jobs=1, **options):
        return screen(CONFIGURATIONS, SimulatedRun(small_profile, small_trace()), {}, jobs=jobs, **options)

    return rows


def test_best_first_and_failures_last(screened):
    rows = screened(sort="p99_ttft_ms")
    assert [row.index for row in rows] == [1, 2, 0, 3]
    assert rows[-1].outcome.message.startswith("max_num_batched_tokens=2: must be at least")


def test_with_targets_what_meets_them_comes_first(screened):
    objective = Objective((Slo(99.0, "tpot", 6.0),))
    rows = screened(objective=objective)
    met = [row["meets"] for row in document(rows, objective)["configurations"]]
    assert met == sorted(met, key=lambda m: (m is None, not m))
    assert met[0] is True and met[-1] is None


def test_the_same_whatever_the_number_of_workers(screened):
    assert [(r.index, r.outcome.metrics) for r in screened(jobs=1)] == [
        (r.index, r.outcome.metrics) for r in screened(jobs=3)
    ]


def test_the_csv_holds_every_row(screened, tmp_path):
    objective = Objective((Slo(99.0, "ttft", 1e9),))
    write_csv(screened(), tmp_path / "out.csv", objective)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["config"] for row in rows][-1] == "3"
    assert rows[-1]["failure"] == "refused" and rows[-1]["p99_ttft_ms"] == ""
    assert float(rows[0]["p99_ttft_ms"]) > 0 and rows[0]["max_num_batched_tokens"] == ""
    assert (rows[0]["meets"], rows[-1]["meets"]) == ("true", "")
    write_csv(screened(), tmp_path / "untold.csv")
    with (tmp_path / "untold.csv").open() as file:
        assert {row["meets"] for row in csv.DictReader(file)} == {""}


def test_where_nothing_can_run_the_first_reason_is_told(small_profile, small_trace):
    run = SimulatedRun(small_profile, small_trace(5))
    cannot = {"max_num_seqs": 100, "max_num_batched_tokens": 10}
    rows = screen([cannot, cannot], run, {}, jobs=1)
    with pytest.raises(
        InputError, match=r"no configuration of 2 could run, the first because: .*max_num_batched_tokens"
    ):
        require_targets(rows, None)
    require_targets(screen([cannot, {}], run, {}, jobs=1), None)


def test_sorting_by_what_does_not_exist():
    with pytest.raises(InputError, match="did you mean p99_ttft_ms"):
        check_metric("p99_ttft", {})


def test_what_turns_requests_away_is_not_the_faster_for_it(small_profile, small_trace):
    run = SimulatedRun(small_profile, small_trace(200))
    rows = screen([{"max_model_len": 200}, {}], run, {}, sort="p99_ttft_ms", jobs=1)
    assert rows[1].settings == {"max_model_len": 200} and rows[1].outcome.metrics["failed"] > 0
    assert rows[1].outcome.metrics["p99_ttft_ms"] < rows[0].outcome.metrics["p99_ttft_ms"]


def test_percentiles_to_sort_by_are_those_that_targets_are_held_against(small_profile, small_trace):
    """Of all requests: gaps between tokens count as the times to the first do."""
    few = {"max_num_seqs": 1, "max_num_queued_reqs": 2}
    outcome = SimulatedRun(small_profile, small_trace())(few)
    for metric in ("ttft", "itl"):
        slo = Slo(50.0, metric, 1.0)
        assert _latency(slo.key, outcome.metrics) == slo.value_ms(outcome.metrics) > outcome.metrics[slo.key]


def test_goodput_alone_is_no_target_and_with_one_it_counts(small_profile, small_trace):
    limits = {"ttft": 1.0}
    run = SimulatedRun(small_profile, small_trace(60), limits)
    alone, both = Objective(goodput=limits), Objective((Slo(99.0, "ttft", 9000.0),), (), limits)
    rows = screen([{}], run, {}, objective=alone, jobs=1)
    assert (meets(rows[0], alone), meets(rows[0], both)) == (None, False)
    require_targets(rows, alone)
    with pytest.raises(InfeasibleError):
        require_targets(rows, both)


def test_goodput_to_sort_by_has_to_be_told_what_is_good():
    assert check_metric("request_goodput", {"ttft": 1.0}) == "request_goodput"
    with pytest.raises(InputError, match="add --goodput"):
        check_metric("request_goodput", {})


def test_shorter_answers_are_no_better_ones(small_profile, small_trace):
    run = SimulatedRun(small_profile, small_trace(200))
    longest = int((run.trace.input_tokens).max()) + 1
    rows = screen([{"max_model_len": longest}, {"max_num_seqs": 1}], run, {}, sort="p99_e2el_ms", jobs=1)
    assert rows[1].settings == {"max_model_len": longest}
    assert rows[1].outcome.metrics["answers_cut"] > rows[0].outcome.metrics["answers_cut"] == 0
    assert rows[1].outcome.metrics["p99_e2el_ms"] < rows[0].outcome.metrics["p99_e2el_ms"]


def test_trust_is_of_the_rows_and_not_of_settings_that_none_has(small_profile, small_trace):
    kv = KvCapacity(1e5, total_bytes=80 * GIB, fixed_bytes=70 * GIB, error_bytes=GIB)
    run = SimulatedRun(replace(small_profile, kv=kv), small_trace())
    for settings, estimated in (({"max_num_seqs": 8}, True), ({"kv_cache_memory_bytes": int(2 * GIB)}, False)):
        trust = trust_of(screen([settings], run, {}, jobs=1), run.profile, {})
        assert bool(trust["expected_error"]["kv_cache"]) == estimated


def test_requests_that_pile_up_where_targets_are_missed_put_nothing_in_doubt(small_profile, small_trace):
    run, objective = SimulatedRun(small_profile, small_trace(400)), Objective((Slo(99, "ttft", 1000.0),))
    rows = screen([{"max_num_seqs": 1}, {"max_num_seqs": 64}], run, {}, objective=objective, jobs=1)
    assert [meets(row, objective) for row in rows] == [True, False]
    assert trust_of(rows, run.profile, {})["piled_up_share"] > 0.05
    assert trust_of(rows, run.profile, {}, objective)["piled_up_share"] < 0.05


def test_the_order_of_the_file_decides_nothing(small_profile, small_trace):
    """Two seats are farther below the target and serve less than arrives: no headroom that is worth anything."""
    run = SimulatedRun(small_profile, small_trace(200, rate=40.0))
    objective = Objective((Slo(99.0, "tpot", 100.0),))
    listed = [{"max_num_seqs": seats} for seats in (2, 16)]
    ranked = [
        [row.settings["max_num_seqs"] for row in screen(one, run, {}, objective=objective, jobs=1)]
        for one in (listed, listed[::-1])
    ]
    assert ranked == [[16, 2], [16, 2]]


def test_what_has_no_value_stands_behind_what_has_one_and_is_empty_in_the_csv(small_profile, small_trace, tmp_path):
    """Of requests that come at once and are all refused there is no throughput; the rest is sorted all the same."""
    trace = small_trace(30)
    run = SimulatedRun(small_profile, replace(trace, arrival_s=np.zeros(len(trace))))
    seats = [{"max_num_seqs": n} for n in (4, 32, 8)]
    rows = screen([seats[0], {"max_model_len": 2}, *seats[1:]], run, {}, jobs=1)
    assert [row.settings for row in rows] == [seats[1], seats[2], seats[0], {"max_model_len": 2}]
    assert math.isnan(rows[-1].outcome.metrics["output_throughput"])
    write_csv(rows, tmp_path / "rows.csv")
    assert "NaN" not in (tmp_path / "rows.csv").read_text()


def test_what_a_policy_does_not_have_is_a_row_with_its_reason(small_profile, small_trace):
    run = SimulatedRun(small_profile, small_trace(), policy="sarathi")
    ran, refused = screen([{"pipeline_parallel_size": 2}, {}], run, {}, jobs=1)
    assert ran.outcome.metrics and refused.outcome.failure == "refused"
    assert "the sarathi policy has no steps in several stages" in refused.outcome.message
