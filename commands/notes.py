"""What commands say on stderr beside their answers: warnings, and notes on what is done with what was asked."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..figures import figure

if TYPE_CHECKING:
    from ..profiler.profile import Profile
    from ..traces.trace import Trace

MOST_PER_SECOND = 500.0
"""Requests, of a service that is traced; half a request a second is as many where seconds are read as milliseconds."""
FEW = 100
"""Requests, whose rate says little."""


def warn(lines: Iterable[str]) -> None:
    """Say what is wrong with the answers, a line each."""
    for line in lines:
        click.echo(f"Warning: {line}", err=True)


def note(text: str) -> None:
    """Say what is good to know."""
    click.echo(f"Note: {text}", err=True)


def note_ignored(profile: "Profile", policy: str, trace: "Trace", *settings: Mapping[str, Any]) -> None:
    """Say on stderr which settings the predictions do not depend on, with a warning where they would change the times;
    and that nothing heeds the priorities of the trace's requests, where they have some."""
    from ..simulator.policy_names import disobeyed
    from ..simulator.versions import version_note

    warn(filter(None, [version_note(profile.engine.version)]))
    trust = profile.trust(*settings)
    warn(_once(trust["not_represented"]))
    ignored = dict.fromkeys(name for one in settings for name in profile.ignored(one) if name not in trust["left_out"])
    if ignored:
        note(f"without effect on what profile {profile.name} predicts: {', '.join(ignored)}")
    others = dict.fromkeys(name for one in settings for name in one if name in disobeyed(policy))
    if others:
        note(f"the {policy} policy does not schedule by {', '.join(others)}")
    heeded = any({**profile.defaults, **one}.get("scheduling_policy") == "priority" for one in settings)
    if not heeded and (trace.priority != trace.priority[0]).any():
        note("the priorities of the trace's requests are without effect: scheduling_policy=priority heeds them")


def note_study(folder: Path) -> None:
    """Say on stderr that a study was made with another slotune, where it was: numbers of both are told then.

    Raises InputError where the folder is no study."""
    from ..release import own_version
    from ..tuner.study.study import other_version, read_asked

    if differs := other_version(read_asked(folder), own_version()):
        warn([f"{folder}: {differs}; `slotune tune` in a new folder makes the study again"])


def note_config_file(path: Path, left_out_of: str | None) -> None:
    """Say on stderr what vLLM would make of a `vllm serve --config` file that is not what is simulated, and what of it
    is not even in the file `left_out_of` that the command writes."""
    from ..simulator.config_file import of_the_server, passed_over

    warn(passed_over(path))
    if names := of_the_server(path):
        written = f" and not taken over into {left_out_of}" if left_out_of else ""
        note(f"{path}: the server's own, not simulated{written}: {', '.join(names)}")


def _once(lines: Iterable[str]) -> Iterator[str]:
    """One of the lines that say the same of many configurations, whose settings stand before a colon."""
    alike: dict[str, list[str]] = {}
    for line in lines:
        alike.setdefault(re.sub(r"^\w+=\S+(, \w+=\S+)*: |\d+", "", line), []).append(line)
    for first, *others in alike.values():
        yield first + (f" (likewise in {len(others)} more)" if others else "")


def note_read(trace: "Trace", rescaled: bool = False, retimed: bool = False) -> None:
    """Say on stderr how many requests of a trace's file are not simulated, what its reader doubts, and where its times
    seem to be of another unit, unless they are `rescaled`, or rounded, unless each request gets another (`retimed`)."""
    from ..traces.doubts import repeated_prompts, whole_seconds
    from ..traces.stats import request_rate

    if trace.left_out:
        count = "1 request of the file is" if trace.left_out == 1 else f"{trace.left_out:,} requests of the file are"
        note(f"{count} left out: {trace.left_out_why}")
    for doubt in trace.doubts:
        note(doubt)
    if not retimed and (rounded := whole_seconds(trace.arrival_s)):
        note(rounded)
    if repeated := repeated_prompts(trace):
        note(repeated)
    if len(trace) >= FEW and (rate := request_rate(trace)) > MOST_PER_SECOND and not rescaled:
        told = (
            f"{figure(rate)} requests/s: timestamps of JSON lines are milliseconds here, and some tools write seconds"
        )
        note(f"{told}; if so, --rate sets the true rate")


def note_load(trace: "Trace", rate: float | None) -> None:
    """Say on stderr what of a trace is not simulated as it was: requests left out, arrivals that a rate gives to a
    trace without, a late beginning."""
    from ..traces.arrivals import idle_s, span_s

    note_read(trace, rescaled=bool(rate))
    if rate and not span_s(trace.arrival_s):
        note("all requests of the trace arrive at once: --rate gives them Poisson arrivals")
    if not rate and (late_s := idle_s(trace.arrival_s)):
        late = figure(late_s, 2)
        note(f"nothing arrives in the first {late} s; throughputs count them, as in vLLM")


def note_few_requests(trace: "Trace", percentiles: Sequence[float]) -> None:
    """Say on stderr where a trace is too short for the percentiles that were asked for."""
    from ..tuner.traffic.sample import few_requests

    if few := few_requests(trace, percentiles):
        note(few)


def announce_compilation() -> None:
    """Say on stderr, once, that the simulator is being compiled, if that happens in this process.

    Call it before the first simulation. Code found in the cache on disk is not compiled and not announced.
    """
    from numba.core import event

    class Announcer(event.Listener):
        said = False

        def on_start(self, event: object) -> None:
            if not self.said:
                click.echo("Compiling the simulator, once for this version ...", err=True)
            self.said = True

        def on_end(self, event: object) -> None:
            pass

    event.register("numba:compile", Announcer())
