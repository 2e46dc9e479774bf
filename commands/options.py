"""The options that several commands share, each spelled and explained once.

The comment above a decorator names the parameter that it fills; values arrive parsed. A length of time is an option of
`type=duration` and arrives in seconds.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..simulator.policy_names import POLICIES
from .notes import note_config_file

if TYPE_CHECKING:
    from ..simulator.outage import Outage
    from ..simulator.slo import Slo

SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def positive_number(text: str | float) -> float:
    """A finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number") from None
    if not (math.isfinite(number) and number > 0):
        raise click.BadParameter(f"{text!r} must be a finite number above 0")
    return number


ZERO = re.compile(r"0+(?:\.0+)?(?:ms|s|m|h)?")


def duration(text: str | float) -> float:
    """Seconds of a length of time with its unit, such as 90s, 10m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", str(text).strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a duration; write it like 90s, 10m or 2h")
    seconds = round(float(match[1]) * SECONDS_PER_UNIT[match[2]], 9)  # 700 * 0.001 is more than 0.7
    if seconds == 0:
        raise click.BadParameter(f"{text!r} is no time at all")
    return seconds


def moment(text: str) -> float:
    """Seconds since a trace begins: a duration, or 0 with or without a unit."""
    return 0.0 if ZERO.fullmatch(text.strip()) else duration(text)


def _slo(text: str) -> "Slo":
    from ..simulator.slo import parse_slo

    return parse_slo(text)


def _outage(text: str) -> "Outage":
    """Parse REPLICA:FROM[:TO], durations since the trace's start; FROM may be 0, with or without a unit."""
    from ..simulator.outage import Outage

    replica, *times = text.split(":")
    if not replica.isdecimal() or len(times) not in (1, 2):
        raise click.BadParameter(f"{text!r}: write REPLICA:FROM or REPLICA:FROM:TO, for example 1:30s:90s")
    return Outage(int(replica), *map(moment, times))


def _goodput(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, float]:
    from ..simulator.slo import parse_goodput

    if empty := [text for text in value if not text.strip()]:
        raise click.BadParameter(f"{empty[0]!r} names no metric; write ttft:500")
    limits = [parse_goodput(word) for text in value for word in text.split()]
    if twice := [metric for k, (metric, _) in enumerate(limits) if metric in dict(limits[:k])]:
        raise click.BadParameter(f"{twice[0]} is named twice")
    return dict(limits)


def _engine_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value and value.is_file():  # a pipe can be read but once
        note_config_file(value, "best.yaml" if ctx.info_name == "tune" else None)
    return value


# profile: str
profile_option = click.option(
    "--profile", required=True, metavar="P", help="A profile's folder, or the name of a bundled one."
)
# trace: str
trace_option = click.option(
    "--trace", required=True, metavar="T", help="A trace file in any known format, or the name of a bundled one."
)
_engine = click.option(
    "--engine",
    multiple=True,
    metavar="NAME=VALUE",
    help="An engine setting as on vLLM's command line, e.g. max_num_seqs=64, tp=2, no-enable-prefix-caching or "
    "compilation-config.mode=3 (repeatable).",
)
_engine_config_file = click.option(
    "--engine-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_engine_config,
    metavar="FILE.yaml",
    help="Engine settings from the file that `vllm serve --config` reads; --engine overrides it.",
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """engine: tuple[str, ...], and engine_config: Path | None; simulator/settings.py joins them."""
    return _engine(_engine_config_file(command))


# acceptance_rate: str | None
acceptance_rate_option = click.option(
    "--acceptance-rate",
    metavar="R|FILE",
    help="With --engine speculative_config=...: the chance that a draft token is accepted once all before it were, or "
    "the result file of a `vllm bench serve --save-result` that measured it.",
)
# policy: str
policy_option = click.option(
    "--policy", type=click.Choice(POLICIES), default=POLICIES[0], show_default=True, help="The scheduling policy."
)
# outage: tuple[Outage, ...]
outage_option = click.option(
    "--outage",
    type=_outage,
    multiple=True,
    metavar="REPLICA:FROM[:TO]",
    help="A replica (numbered from 0) is down from FROM to TO, e.g. 1:30s:90s, or 1:0:60s for a late start "
    "(repeatable). Its unfinished requests are sent again; their latencies count from their first arrival.",
)
# slo: tuple[Slo, ...]
slo_option = click.option(
    "--slo",
    type=_slo,
    multiple=True,
    metavar="PERCENTILE:METRIC:MS",
    help="A target, e.g. p99:ttft:500; metric ttft, tpot, itl or e2el, in milliseconds (repeatable).",
)
# goodput: dict[str, float], milliseconds by metric
goodput_option = click.option(
    "--goodput",
    multiple=True,
    callback=_goodput,
    metavar="METRIC:MS",
    help='The limits of a good request, as in `vllm bench serve`: ttft:500, or "ttft:500 tpot:50" (repeatable). '
    "Beside --slo it adds the target that 99 % of the requests are good.",
)
# rate: float | None
rate_option = click.option(
    "--rate",
    type=positive_number,
    metavar="R",
    help="Rescale the arrivals to R requests per second; bursts get shorter or longer in proportion.",
)
# max_concurrency: int | None
max_concurrency_option = click.option(
    "--max-concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N requests in flight at once, as in `vllm bench serve`.",
)
# vllm_python: str | None
vllm_python_option = click.option(
    "--vllm-python",
    metavar="PY",
    help="Python interpreter that has vLLM, or vllm command, to start real engines with; default: this interpreter, or "
    "the vllm on PATH.",
)
# model: str | None
served_model_option = click.option(
    "--model", metavar="M", help="The model that a real engine serves. Default: the profile's."
)
# seed: int
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Same seed, same numbers."
)
# jobs: int | None
jobs_option = click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Worker processes; default: one per core."
)
# dask_scheduler: str | None
dask_scheduler_option = click.option(
    "--dask-scheduler",
    metavar="ADDRESS",
    help="Simulate on the workers of this Dask cluster instead, e.g. tcp://10.0.0.5:8786.",
)
# as_json: bool
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, nothing else.")
# out: Path
out_option = click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="PATH", help="Where the result is written."
)
out_file_option = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where the result is written.",
)
