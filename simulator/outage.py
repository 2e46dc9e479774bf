"""When replicas are away: one that starts late, dies, or dies and comes back."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True, slots=True)
class Outage:
    """Replica `replica` is away from `start_s` to `end_s`: from 0 it starts late, to +inf it stays away."""

    replica: int
    start_s: float
    end_s: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s:
            raise InputError(
                f"outage of replica {self.replica}: {self.start_s:g} s to {self.end_s:g} s is no time span"
            )


def planned(outages: Sequence[Outage], replicas: int) -> dict[int, list[Outage]]:
    """Each replica's outages in order of time. Raises InputError for a replica that is not there, or overlaps."""
    plan: dict[int, list[Outage]] = defaultdict(list)
    for outage in sorted(outages, key=lambda o: o.start_s):
        if not 0 <= outage.replica < replicas:
            raise InputError(f"outage of replica {outage.replica}: there are {replicas}, counted from 0")
        if plan[outage.replica] and plan[outage.replica][-1].end_s >= outage.start_s:
            start = f"one from {outage.start_s:g} s"
            raise InputError(f"outage of replica {outage.replica}: {start} overlaps or meets another")
        plan[outage.replica].append(outage)
    return plan
