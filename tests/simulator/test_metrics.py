"""The metrics are those of `vllm bench serve`, computed here a second time, naively, from the steps alone."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from slotune.errors import InputError
from slotune.simulator.metrics import Gaps, summarise
from slotune.simulator.outage import Outage
from slotune.simulator.request_table import FINISHED, REJECTED, RequestTable
from slotune.simulator.simulation import simulate
from slotune.simulator.slo import OF_ALL, Slo, parse_slo
from slotune.simulator.step_time import linear_model
from slotune.simulator.timing import Timing
from slotune.tests.simulator.runs import Run, Setup, make_trace, plain_engine, run, setups, token_times
from slotune.tests.simulator.test_invariants import MANY
from slotune.traces.generate import plain
from slotune.tuner.objective import Objective

GOODPUT = {"ttft": 60.0, "tpot": 7.0, "e2el": 400.0}
LATENCIES = ("ttft", "tpot", "itl", "e2el")


@MANY
@given(setups())
def test_metrics_are_those_of_the_steps(setup: Setup) -> None:
    made = run(setup)
    metrics = summarise(made.result.requests, made.result.gaps, GOODPUT, [97.5])
    expected = naive_metrics(made)
    of_all = {name for name in metrics if name.endswith(OF_ALL)}
    assert metrics.keys() - of_all == expected.keys()
    assert all(not metrics[name] < metrics[name.removesuffix(OF_ALL)] for name in of_all if "p97.5" in name)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), name


def test_a_request_that_outgrows_the_cache_leaves_the_latencies_between_tokens_to_those_that_finish() -> None:
    """It decodes alone for long, which would hide how long the others wait behind prompts."""
    others = make_trace([0.03 * k for k in range(19)], [60] * 19, [6] * 19)
    engine = plain_engine(num_gpu_blocks=60, block_size=16)
    metrics = []
    for trace in (others, make_trace([*others.arrival_s, 1.0], [60] * 19 + [4], [6] * 19 + [5000])):
        made = run(Setup(trace, engine))
        assert made.result.gaps.count.sum() == 19 * 5
        metrics.append(summarise(made.result.requests, made.result.gaps, percentiles=[80.0]))
    alone, beside = metrics
    assert beside["failed"] == 1 and beside["p90_itl_ms"] == alone["p90_itl_ms"]
    assert beside["p80_itl_ms_of_all"] > beside["p80_itl_ms"], "it is taken to miss five"
    assert [Slo(p, "itl", 1e3).is_met(beside) for p in (94.0, 95.0)] == [True, False]


def test_percentiles_of_all_requests_count_those_that_were_not_answered() -> None:
    """Of 100 requests, 96 are answered after 1 to 96 ms and four are rejected."""
    late_s, never, whole = np.arange(1, 97) / 1e3, np.full(4, np.nan), np.full(100, 3, np.int64)
    answered_s = np.concatenate([late_s, never])
    status = np.repeat([FINISHED, REJECTED], [96, 4])
    table = RequestTable(np.zeros(100), whole, whole, whole, answered_s, answered_s, whole, whole, status)
    metrics = summarise(table, Gaps(np.empty(0), np.empty(0, np.int64)), {}, [96.0, 97.0])
    late_last = np.percentile(np.concatenate([late_s * 1e3, [1e9] * 4]), (90, 95))
    assert [metrics[f"p{p}_ttft_ms_of_all"] for p in (90, 95)] == pytest.approx(late_last)
    lost = {"p96_ttft_ms_of_all", "p97_ttft_ms_of_all", "p99_ttft_ms_of_all"}
    assert metrics["p99_ttft_ms"] < 96 and not lost & metrics.keys(), "the next one never comes"
    met = [Objective((Slo(percentile, "ttft", 95.5),)).meets(metrics) for percentile in (95.0, 96.0, 99.0)]
    assert met == [True, False, False]


@pytest.mark.parametrize(("requests", "percentile", "slow"), [(1000, 99.0, 10), (10, 90.0, 1), (100, 99.0, 1)])
def test_to_refuse_a_request_is_no_better_than_to_answer_it_late(requests: int, percentile: float, slow: int) -> None:
    whole, ttft_s = np.full(requests, 3, np.int64), np.full(requests, 0.011)
    ttft_s[:slow] = 5.0
    target = Slo(percentile, "ttft", 11.5)

    def told(status: np.ndarray, answered_s: np.ndarray) -> bool:
        table = RequestTable(np.zeros(requests), whole, whole, whole, answered_s, answered_s, whole, whole, status)
        return target.is_met(summarise(table, Gaps(np.empty(0), np.empty(0, np.int64)), {}, [percentile]))

    refused = np.arange(requests) < slow
    assert not told(np.full(requests, FINISHED), ttft_s)
    assert not told(np.where(refused, REJECTED, FINISHED), np.where(refused, np.nan, ttft_s))


def test_each_request_without_an_answer_lacks_as_many_times_between_tokens_as_one_with_an_answer_has() -> None:
    """Two are answered with five such times each, nine of 10 ms and one of 20 ms; two are not: ten of 20 never come."""
    tokens, none, answered = np.full(4, 6), np.zeros(4, np.int64), np.array([True, True, False, False])
    times_s, status = np.where(answered, 1.0, np.nan), np.where(answered, FINISHED, REJECTED)
    table = RequestTable(np.zeros(4), tokens, tokens, none, times_s, times_s, none, none, status)
    metrics = summarise(table, Gaps(np.array([0.02, 0.01]), np.array([1, 9])), {}, [45.0])
    assert metrics["mean_itl_ms"] == pytest.approx(11) and metrics["std_itl_ms"] == pytest.approx(3)
    assert metrics["p45_itl_ms"] == pytest.approx(10)
    # The place 0.45 * 19 = 8.55 lies between the ninth and the tenth.
    assert metrics["p45_itl_ms_of_all"] == pytest.approx(15.5)
    assert "p50_itl_ms_of_all" not in metrics, "between the tenth, which came, and the next, which never does"


def test_where_nobody_is_answered_there_are_counts_and_no_latencies() -> None:
    arrival_s, whole, never = np.array([0.0, 4.0]), np.full(2, 3, np.int64), np.full(2, np.nan)
    table = RequestTable(arrival_s, whole, whole, whole, never, never, whole, whole, np.full(2, REJECTED))
    metrics = summarise(table, Gaps(np.empty(0), np.empty(0, np.int64)), GOODPUT)
    assert [metrics[name] for name in ("completed", "failed", "duration", "request_goodput")] == [0, 2, 4.0, 0.0]
    assert math.isnan(metrics["p99_ttft_ms"]) and math.isnan(metrics["mean_itl_ms"])


def test_where_nobody_is_answered_the_latency_is_infinite() -> None:
    for metrics in ({"failed": 50.0, "completed": 0.0}, {"failed": 11.0, "completed": 29.0, "p99_ttft_ms": 5.0}):
        assert parse_slo("p99:ttft:500").value_ms(metrics) == math.inf


def test_answers_of_one_token_do_not_make_up_for_long_ones_that_never_come() -> None:
    """Of 100 requests with a time between tokens eight are not answered, of all 1,000 less than one in a hundred."""
    tokens = np.repeat([1, 11], [900, 100])
    finish_s = np.where(np.arange(1000) < 992, 1 + 0.02 * (tokens - 1), np.nan)
    first_s, none = np.where(np.isnan(finish_s), np.nan, 1.0), np.zeros(1000, np.int64)
    status = np.where(np.isnan(finish_s), REJECTED, FINISHED)
    table = RequestTable(np.zeros(1000), tokens, tokens, none, first_s, finish_s, none, none, status)
    metrics = summarise(table, Gaps(np.empty(0), np.empty(0, np.int64)), {}, [91.0, 92.0])
    assert metrics["p99_tpot_ms"] == pytest.approx(20)
    assert [Slo(p, "tpot", 50.0).is_met(metrics) for p in (91.0, 92.0, 99.0)] == [True, False, False]


def test_a_latency_that_is_its_limit_keeps_it_at_any_time_of_the_run() -> None:
    """Every first token comes 10 ms after its request: differences of moments that are 10 ms and a few last digits."""
    arrival_s, whole = np.arange(100) * 0.0237, np.full(100, 3, np.int64)
    first_s = arrival_s + 0.01
    status = np.full(100, FINISHED)
    table = RequestTable(arrival_s, whole, whole, whole, first_s, first_s + 0.0106, whole, whole, status)
    metrics = summarise(table, Gaps(np.empty(0), np.empty(0, np.int64)), {"ttft": 10.0, "tpot": 5.3, "e2el": 20.6})
    assert metrics["p99_ttft_ms"] != 10.0
    assert metrics["request_goodput"] == metrics["request_throughput"]
    objective = Objective((Slo(99.0, "ttft", 10.0), Slo(99.0, "tpot", 5.3), Slo(99.0, "e2el", 20.6)))
    assert objective.meets(metrics) and objective.worst_ratio(metrics) <= 1
    assert not Slo(99.0, "ttft", 9.99999).is_met(metrics)


def test_a_run_lasts_until_its_last_request_fails() -> None:
    """As vLLM's benchmark waits for it: two short requests, and one that is lost after a second."""
    trace = plain(np.zeros(3), np.full(3, 8, np.int32), np.array([5, 5, 1000], np.int32))
    setup = Setup(trace, plain_engine(max_num_seqs=4))
    lost = simulate(trace, setup.engine, Timing(linear_model(0.01, 0.0, 0.0, 0.0)), outages=[Outage(0, 1.0, math.inf)])
    metrics = summarise(lost.requests, lost.gaps)
    assert (metrics["completed"], metrics["failed"]) == (2, 1)
    assert metrics["duration"] == pytest.approx(1.0)
    assert metrics["output_throughput"] == pytest.approx(10.0)
    grown = run(Setup(trace, plain_engine(num_gpu_blocks=11)), Timing(linear_model(0.01, 0.0, 0.0, 0.0)))
    assert summarise(grown.result.requests, grown.result.gaps)["duration"] == pytest.approx(1.53, abs=0.011)


def naive_metrics(made: Run) -> dict[str, float]:
    """What calculate_metrics of vllm/benchmarks/serve.py makes of the chunks that the client saw."""
    table = made.result.requests
    chunks = {i: sent(times, made.setup.engine.stream_interval) for i, times in token_times(made).items()}
    done = [i for i in range(len(table)) if table.status[i] == FINISHED]
    seen: dict[str, list[float]] = {name: [] for name in LATENCIES}
    good = 0
    for i in done:
        ttft = chunks[i][0] - table.arrival_s[i]
        e2el = chunks[i][-1] - table.arrival_s[i]
        outputs = int(table.output_tokens[i])
        tpot = (e2el - ttft) / (outputs - 1) if outputs > 1 else 0.0
        seen["ttft"].append(ttft * 1e3)
        seen["e2el"].append(e2el * 1e3)
        seen["itl"] += list(np.diff(chunks[i]) * 1e3)
        seen["tpot"] += [tpot * 1e3] if outputs > 1 else []
        latencies = {"ttft": ttft, "tpot": tpot, "e2el": e2el}
        good += all(round(latencies[name] * 1e3, 6) <= limit_ms for name, limit_ms in GOODPUT.items())
    unanswered = set(range(len(table))) - set(done)
    assert table.failed_s is not None
    duration_s = max([0.0, *(chunks[i][-1] for i in done), *(float(table.failed_s[i]) for i in unanswered)])
    metrics = naive_throughput(made, done, duration_s, good)
    for name, values in seen.items():
        metrics |= naive_distribution(name, np.array(values))
    return metrics


def sent(times: list[float], interval: int) -> list[float]:
    """When chunks went to the client: the first token, then every `interval` tokens, and the end."""
    last = len(times) - 1
    return [time for k, time in enumerate(times) if k % interval == 0 or k == last]


def naive_throughput(made: Run, done: list[int], duration_s: float, good: int) -> dict[str, float]:
    table = made.result.requests
    prompt = sum(int(table.prompt_tokens[i]) for i in done)
    output = sum(int(table.output_tokens[i]) for i in done)
    amounts = {
        "request_throughput": len(done),
        "output_throughput": output,
        "total_token_throughput": prompt + output,
        "request_goodput": good,
    }
    rates = {name: amount / duration_s if duration_s else float("nan") for name, amount in amounts.items()}
    counts = {"completed": len(done), "failed": len(table) - len(done), "duration": duration_s}
    return rates | counts | {"total_input_tokens": prompt, "total_output_tokens": output}


def naive_distribution(name: str, values: np.ndarray) -> dict[str, float]:
    nothing = len(values) == 0
    statistics = {"mean": np.mean, "median": np.median, "std": np.std}
    named = {f"{kind}_{name}_ms": float("nan") if nothing else f(values) for kind, f in statistics.items()}
    percentiles = {p: float("nan") if nothing else np.percentile(values, p) for p in (50, 90, 95, 97.5, 99)}
    return named | {f"p{p:g}_{name}_ms": value for p, value in percentiles.items()}


def test_stream_interval_holds_tokens_back_and_changes_nothing_else() -> None:
    trace = make_trace([0.0, 0.013], [40, 3], [8, 1])
    every, third = (run(Setup(trace, plain_engine(stream_interval=interval))) for interval in (1, 3))
    assert every.text == third.text
    first, *rest = token_times(every)[0]
    itl = np.repeat(third.result.gaps.gap_s, third.result.gaps.count)
    # chunks at tokens 1, 4, 7 and 8
    assert sorted(itl) == pytest.approx(sorted(np.diff([first, rest[2], rest[5], rest[6]])))
    assert every.result.requests.finish_s == pytest.approx(third.result.requests.finish_s)


def test_an_answer_of_one_token_has_no_tpot_and_passes_its_target() -> None:
    made = run(Setup(make_trace([0.0], [10], [1]), plain_engine()))
    metrics = summarise(made.result.requests, made.result.gaps, {"tpot": 1e-6})
    assert np.isnan(metrics["mean_tpot_ms"]) and np.isnan(metrics["mean_itl_ms"])
    assert metrics["request_goodput"] == pytest.approx(metrics["request_throughput"])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"goodput": {"itl": 3.0}}, "goodput 'itl': one of ttft, tpot, e2el"),
        ({"goodput": {"foo": 3.0}}, "goodput 'foo'"),
        ({"percentiles": [-1]}, r"percentile -1: must lie in \(0, 100\]"),
        ({"percentiles": iter([50, 101])}, "percentile 101"),
    ],
)
def test_what_has_no_meaning_is_not_summarised(asked: dict[str, Any], told: str) -> None:
    made = run(Setup(make_trace([0.0], [9], [9]), plain_engine(num_gpu_blocks=100)))
    with pytest.raises(InputError, match=told):
        summarise(made.result.requests, made.result.gaps, **asked)
