"""How many replicas serve a forecast: the whole rate on so many engines is simulated, not divided out.

A router may spread the load better than one engine gets it, or worse: requests that go to each replica in turn arrive
more evenly than the trace's, and those that go anywhere share its bursts, but unevenly.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from ...errors import InfeasibleError
from ...figures import figure
from ...traces.lasting_prefixes import lasting_prompts, passing_on
from ..traffic.overlay import OVERLAYS, overlaid
from .capacity import CONFIRMING_REQUESTS, LEAST_REQUESTS, Capacity, Probe, Scenario, probe, saturated_rate

ORDERINGS = 5
"""Of the trace, on every one of which the targets must be met."""
MOST_ADDED, MOST_ADDED_SHARE = 8, 0.25
"""Replicas added to what division says before giving up, the larger of the two: taking turns loses no factor."""
MANY_ADDED_SHARE = 8.0
"""The same for conversations, whose turns go to engines that do not hold their text, and for busy times, which last
longer than those at which one engine's rate was found."""
MOST_AT_RANDOM = 4
"""Times as many as serve the forecast in turn, up to which replicas are added where requests go to any of them."""
MOST_REPLICAS = 2000
"""More than stand behind one router; a forecast for more is planned in parts."""
MOST_SATURATED = 2.0
"""An engine answers less than so many times the requests a second that it does of a thousand that are all there, at
whose end it empties."""
IN_PARTS = f", and at most {MOST_REPLICAS:,} are simulated: plan for a part of the rate and multiply"
OTHERS_TEXT = (
    "with round-robin routing, few turns of a conversation find its text in the cache: with a prefix-aware router far "
    "fewer replicas may do"
)
FAR, FASTER = 16, 4
"""How far below what division says fewer replicas are looked for, and how much longer strides down get each time."""

FEW_PROMPTS = 4
"""Lasting prefixes whose first prefills are no queue to speak of."""

Question = Callable[[Scenario], Capacity | Probe | float]
AskAll = Callable[[Sequence[Question]], Any]
Answer = TypeVar("Answer")
ReplicaRange = tuple[int, int | None]
"""Fewest and most replicas; None where no number that is simulated serves the traffic that needs most."""


@dataclass(frozen=True, slots=True)
class FleetTrial:
    """Engines of a scenario behind one router, as many as are tried."""

    scenario: Scenario
    stay_s: float
    """That a request stays when alone, seconds."""
    ask_all: AskAll
    """Answers several questions about the scenario."""
    on_tried: Callable[[int], None] = lambda replicas: None
    """Hears of each number before it is simulated."""
    overlaid_at: float | None = None
    """Requests a second of copies of the trace over each other, which are served then; None where its time is squeezed
    to the rate."""
    beyond: float = 1.0
    """Times what division says, where the search begins: what a like scenario's fleet was."""

    def serve(self, replicas: int, rate: float, router: str = "round-robin") -> Probe | None:
        """What came of `rate` requests a second on the ordering that did worst; None where one missed the targets."""
        self.on_tried(replicas)
        # Behind the first prefills of many lasting prefixes each replica has a queue, which takes thousands to empty.
        queues = lasting_prompts(self.scenario.trace) > FEW_PROMPTS
        least = CONFIRMING_REQUESTS if queues else max(LEAST_REQUESTS, math.ceil(CONFIRMING_REQUESTS / replicas))
        ask = partial(_probed, rate=rate, stay_s=self.stay_s, replicas=replicas, least=least, router=router)
        ask = partial(ask, overlaid_at=self.overlaid_at)
        seeds = range(ORDERINGS if self.overlaid_at is None else OVERLAYS)
        probes: list[Probe] = list(self.ask_all([partial(ask, seed=seed) for seed in seeds]))
        if not all(p.ok for p in probes):
            return None
        return max(probes, key=lambda p: self.scenario.objective.worst_ratio(p.metrics))


def _probed(scenario: Scenario, seed: int, overlaid_at: float | None, **how: Any) -> Probe:
    """A probe of the ordering `seed`, or of the overlay `seed` in its own order."""
    if overlaid_at is None:
        return probe(scenario, seed=seed, **how)
    return probe(replace(scenario, trace=overlaid(scenario.trace, overlaid_at, seed)), seed=0, **how)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fewest replicas that serve a forecast on every ordering of the trace, or every overlay of its copies."""

    replicas: int
    """Where each request goes to the next replica in turn."""
    worst: Probe
    """The forecast on that many, on the ordering that did worst."""
    replicas_at_random: int | None
    """Where each request goes to any replica; None where `most_at_random` do not serve it either."""
    most_at_random: int
    """Up to which that was tried."""
    interval: ReplicaRange | None = None
    """Of `replicas`, for traffic of which one engine takes as much as the plan's interval spans; None where no samples
    of the traffic are drawn."""


def find_fleet(trial: FleetTrial, rate: float, one_takes: float) -> Fleet:
    """The fleet for `rate` requests a second, where one engine takes up to `one_takes`.

    Raises InfeasibleError where none that is simulated serves it.
    """
    scenario, divided = trial.scenario, by_division(rate, one_takes)
    if divided > MOST_REPLICAS:
        _check_throughput(scenario, rate)
    start, in_turns = min(math.ceil(divided * trial.beyond), MOST_REPLICAS), passing_on(scenario.trace)
    share = MANY_ADDED_SHARE if in_turns or trial.overlaid_at else MOST_ADDED_SHARE
    most = _most_tried(min(max(start, divided), MOST_REPLICAS), share)
    found = fewest_that_do(partial(trial.serve, rate=rate), start, most)
    if found is None:
        limits = (IN_PARTS if most == MOST_REPLICAS else "") + (f"; {OTHERS_TEXT}" if in_turns else "")
        raise InfeasibleError(
            f"{scenario.name}: {most:,} replicas do not meet the targets at {rate:g} requests/s although one takes up "
            f"to {figure(one_takes, 3)}{limits}"
        )
    replicas, worst = found
    most_at_random = max(replicas, min(MOST_AT_RANDOM * replicas, MOST_REPLICAS))
    at_random = _at_random(partial(trial.serve, rate=rate, router="random"), replicas, most_at_random)
    return Fleet(replicas, worst, at_random, most_at_random)


def by_division(rate: float, one_takes: float) -> int:
    """Replicas for `rate`, if many took so many times what one does."""
    return max(1, math.ceil(rate / one_takes))


def fleet_interval(trial: FleetTrial, rate: float, replicas: int, shares: tuple[float, float]) -> ReplicaRange:
    """How many replicas traffic needs of which one engine takes between `shares[0]` and `shares[1]` times as much as of
    this trace, which needs `replicas` for `rate`: as many as this trace does for a rate so much higher and lower."""
    lowest, highest = shares
    fewest = fewest_that_do(partial(trial.serve, rate=rate / highest), math.ceil(replicas / highest), replicas)
    least = fewest[0] if fewest else replicas
    if replicas > lowest * MOST_REPLICAS:
        return least, None
    start = math.ceil(replicas / lowest)
    most = _most_tried(start, MOST_ADDED_SHARE)
    enough = fewest_that_do(partial(trial.serve, rate=rate / lowest), start, most, failing=replicas - 1)
    return least, enough and enough[0]


def _most_tried(start: int, share: float) -> int:
    """Up to which replicas are added to `start`."""
    return min(start + max(MOST_ADDED, math.ceil(share * start)), MOST_REPLICAS)


def _check_throughput(scenario: Scenario, rate: float) -> None:
    """Raise InfeasibleError where MOST_REPLICAS cannot answer so many requests, whatever each of them gets: of traffic
    in bursts, what one takes within the targets does not tell."""
    fewest = math.ceil(rate / (MOST_SATURATED * saturated_rate(scenario)))
    if fewest > MOST_REPLICAS:
        raise InfeasibleError(f"{scenario.name}: {rate:g} requests/s need {fewest:,} replicas or more{IN_PARTS}")


def _at_random(does: Callable[[int], Answer | None], in_turn: int, most: int) -> int | None:
    if in_turn == 1:  # which is no other engine than the one that was simulated
        return 1
    found = fewest_that_do(does, in_turn, most, failing=in_turn - 1)
    return found and found[0]


def fewest_that_do(
    does: Callable[[int], Answer | None], start: int, most: int, failing: int = 0
) -> tuple[int, Answer] | None:
    """The least number above `failing` that does, and what it answers; None where none up to `most` does.

    It is sought near `start`, in growing strides, after a look far below: what one engine takes of traffic in bursts
    says little of many that share them, and to simulate many takes as much longer as they are more.
    """
    below, above, answer = _foothold(does, start, failing)
    stride = 1
    while answer is None and (answer := does(above)) is None:
        if above == most:
            return None
        below, above, stride = above, min(above + stride, most), 2 * stride
    # Downwards in strides while nothing near is known to fail, by halves after that.
    stride = 1 if above <= start else most
    while above - below > 1:
        tried = max(above - stride, (below + above) // 2)
        better = does(tried)
        if better is None:
            below, stride = tried, most
        else:
            above, answer, stride = tried, better, FASTER * stride
    return above, answer


def _foothold(does: Callable[[int], Answer | None], start: int, failing: int) -> tuple[int, int, Answer | None]:
    """The most that is known to fail, where to begin, and what that answers where it is known: `start`, or a small part
    of it that does."""
    above, answer = start, None
    while (fewer := above // FAR) > failing:
        if (better := does(fewer)) is None:
            return fewer, above, answer
        above, answer = fewer, better
    return failing, above, answer
