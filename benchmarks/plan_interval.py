"""How often the interval of `slotune plan` holds the rate of the traffic that its trace is a piece of.

    python benchmarks/plan_interval.py [--data ../shared/traces/azure2023]

Long traces, made from figures or, with --data, Azure's of 2023, tell the rate that one engine takes; pieces of them are
planned for by themselves. Beside the interval stands what the orderings of a piece alone span. The same for the
replicas of a forecast that is some eight times as much.
"""

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slotune import load_profile, read_trace
from slotune.simulator.slo import parse_slo
from slotune.traces.generate import make_trace, parse_lengths
from slotune.traces.trace import Trace
from slotune.tuner.objective import Objective
from slotune.tuner.planning.capacity import Scenario
from slotune.tuner.planning.plan import Plan, plan

LONG, SEED = 30_000, 31
CHAT_TARGETS, CODE_TARGETS = ("p99:ttft:500", "p99:tpot:30"), ("p99:ttft:1000",)
AZURE = (
    ("Azure conversations", "AzureLLMInferenceTrace_conv.csv", CHAT_TARGETS, 100.0),
    ("Azure code", "AzureLLMInferenceTrace_code.csv", CODE_TARGETS, 9.0),
)
HEADS = (
    "traffic",
    "targets",
    "requests",
    "rate of all",
    "intervals that hold it",
    "width",
    "orderings that do",
    "width",
    "forecast",
    "replicas for all",
    "intervals that hold them",
    "told as many",
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Much traffic, the targets of its service, and how many requests there are in a piece."""

    name: str
    whole: Trace
    targets: tuple[str, ...]
    forecast: float
    """Requests a second."""
    requests: int = 1000

    def pieces(self, count: int) -> Iterator[Trace]:
        """Consecutive requests, from places that lie evenly apart."""
        for start in np.linspace(0, len(self.whole) - self.requests, count).astype(int):
            piece = self.whole.taken(np.arange(start, start + self.requests))
            yield replace(piece, arrival_s=piece.arrival_s - piece.arrival_s[0])

    def plan(self, trace: Trace) -> Plan:
        """For the forecast, on the bundled profile."""
        objective = Objective(tuple(map(parse_slo, self.targets)))
        return plan([Scenario(self.name, load_profile("h200-llama-3.1-8b"), trace, objective)], self.forecast)[0]


def main() -> None:
    """Print a row a kind of traffic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pieces", type=int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--data", type=Path, help="the folder of Azure's traces")
    asked = parser.parse_args()
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
    for traffic in [*made(), *(recorded(asked.data) if asked.data else ())]:
        print("| " + " | ".join(row(traffic, asked.pieces)) + " |", flush=True)


def made() -> Iterator[Traffic]:
    """Traffic from figures."""
    chat = parse_lengths("1155/1020/4142"), parse_lengths("211/129/601")
    whole = make_trace(LONG, 5.0, chat, seed=SEED)
    yield Traffic("chat", whole, CHAT_TARGETS, 150.0)
    yield Traffic("chat", whole, CHAT_TARGETS, 150.0, requests=200)
    yield Traffic("chat", whole, ("p99:ttft:500",), 200.0)
    yield Traffic(
        "chat in bursts", make_trace(LONG, 5.0, chat, seed=SEED, cv=3.0), ("p99:ttft:2000", "p99:tpot:50"), 110.0
    )
    code = parse_lengths("2048/1500/7000"), parse_lengths("28/10/150")
    yield Traffic("code", make_trace(LONG, 5.0, code, seed=SEED), CODE_TARGETS, 130.0)
    equal = parse_lengths("512"), parse_lengths("16")
    yield Traffic("equal requests", make_trace(LONG, 5.0, equal, seed=SEED), ("p99:ttft:100",), 350.0)
    short = parse_lengths("200/1000"), parse_lengths("100/600")
    shared = make_trace(LONG, 5.0, short, seed=SEED, system_prompts=8, system_prompt_tokens=1500)
    yield Traffic("8 system prompts", shared, ("p90:e2el:8000",), 420.0)


def recorded(folder: Path) -> Iterator[Traffic]:
    """Traffic that was."""
    for name, file, targets, forecast in AZURE:
        yield Traffic(name, read_trace(folder / file), targets, forecast)


def row(traffic: Traffic, count: int) -> list[str]:
    """What `count` pieces tell of this traffic."""
    whole, plans = traffic.plan(traffic.whole), [traffic.plan(piece) for piece in traffic.pieces(count)]
    rate, intervals, spans = whole.max_request_rate, [one.interval for one in plans], [one.spanned for one in plans]
    told = [traffic.name, ", ".join(traffic.targets), f"{traffic.requests:,}", f"{rate:.1f}"]
    told += [held(intervals, rate), width(intervals, rate), held(spans, rate), width(spans, rate)]
    assert whole.fleet is not None  # a forecast was asked for
    replicas, fleets = whole.fleet.replicas, [one.fleet for one in plans if one.fleet]
    between = [(least, most or math.inf) for least, most in filter(None, (one.interval for one in fleets))]
    as_many = sum(one.replicas == replicas for one in fleets)
    return [*told, f"{traffic.forecast:g}", str(replicas), held(between, replicas), f"{as_many} of {len(fleets)}"]


def held(intervals: Sequence[tuple[float, float]], rate: float) -> str:
    """How many hold the rate."""
    return f"{sum(low <= rate <= high for low, high in intervals)} of {len(intervals)}"


def width(intervals: list[tuple[float, float]], rate: float) -> str:
    """In the median, of the rate."""
    return f"{statistics.median((high - low) / rate for low, high in intervals):.0%}"


if __name__ == "__main__":
    main()
