"""The options that several commands share, each spelled and explained once.

A decorator names the parameter it fills in its comment; values arrive parsed (targets as `Slo`, durations in seconds).
"""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..simulator.slo import Slo

POLICIES = ("vllm-v1", "sarathi", "vllm-v0", "orca", "request-level")
SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class PositiveNumber(click.ParamType):
    """A finite number above zero."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r} must be a finite number above 0", param, ctx)
        return number


class Duration(click.ParamType):
    """A length of time with its unit, such as 90s, 10m or 2h; arrives in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value.strip())
        seconds = float(match[1]) * SECONDS_PER_UNIT[match[2]] if match else 0.0
        if not (math.isfinite(seconds) and seconds > 0):
            self.fail(f"{value!r} is not a duration; write it like 90s, 10m or 2h", param, ctx)
        return seconds


class SloType(click.ParamType):
    """A latency target such as p99:ttft:500; arrives as a `simulator.slo.Slo`."""

    name = "slo"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Slo":
        from ..simulator.slo import parse_slo

        return parse_slo(value) if isinstance(value, str) else value


def _goodput(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, float]:
    from ..simulator.slo import parse_goodput

    return dict(parse_goodput(word) for text in value for word in text.split())


POSITIVE = PositiveNumber()
DURATION = Duration()
SLO = SloType()

# profile: str
profile_option = click.option(
    "--profile", required=True, metavar="P", help="A profile's folder, or the name of a bundled one."
)
# trace: str
trace_option = click.option(
    "--trace", required=True, metavar="T", help="A trace file in any known format, or the name of a bundled one."
)
# engine: tuple[str, ...]
engine_option = click.option(
    "--engine",
    multiple=True,
    metavar="NAME=VALUE",
    help="An engine setting under vLLM's argument name, e.g. max_num_seqs=64 (repeatable).",
)
# engine_config: Path | None
engine_config_option = click.option(
    "--engine-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.yaml",
    help="Engine settings from the file that `vllm serve --config` reads; --engine overrides it.",
)
# policy: str
policy_option = click.option(
    "--policy", type=click.Choice(POLICIES), default="vllm-v1", show_default=True, help="The scheduling policy."
)
# slo: tuple[Slo, ...]
slo_option = click.option(
    "--slo",
    type=SLO,
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
    help='What a good request keeps, as in `vllm bench serve`: ttft:500, or "ttft:500 tpot:50" (repeatable).',
)
# rate: float | None
rate_option = click.option("--rate", type=POSITIVE, metavar="R", help="Rescale the arrivals to R requests per second.")
# max_concurrency: int | None
max_concurrency_option = click.option(
    "--max-concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N requests under way at once, as `vllm bench serve` does it.",
)
# seed: int
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same numbers."
)
# jobs: int | None
jobs_option = click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Worker processes; default: one a core."
)
# as_json: bool
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, nothing else.")
# out: Path
out_option = click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="PATH", help="Where the result is written."
)
