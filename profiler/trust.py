"""How far a prediction may be believed: the error to expect."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..simulator.features import REGIME_NAMES
from ..simulator.timing import Overhead
from .provenance import CLOSED_FORM, KERNEL_TABLES, MEASURED, STEP_RECORDS
from .surrogate.model import BEYOND, OVER_TIME, RegimeError

if TYPE_CHECKING:
    from .profile import Profile

TABLES_TTFT_ERROR, TABLES_TPOT_ERROR = 0.33, 0.08
"""Median absolute error of predictions from kernel tables on measured vLLM points that nothing was calibrated on, the
larger of two medians: of benchmarks/accuracy/silicon_sample.py, H200 and B200, with the tables that are in doubt (TTFT
0.177, TPOT 0.077; 0.141 and 0.061 without), and of those runs of benchmarks/accuracy/public_runs.py that were not
overloaded (TTFT 0.332; TPOT 0.039). All are of plain dense models."""


@dataclass(frozen=True, slots=True)
class MeasuredEngines:
    """Those that predictions from kernel tables were compared with."""

    models: str
    parts: frozenset[str]
    """Of profile.py's model parts, those that they had and used."""
    tpot_error: float
    ttft_side: str = ""
    """To which side TTFT was off, as a part of a sentence; empty where it was to both."""


TOO_SHORT = ", mostly too short"
"""In brackets in the tables of the same two commands: medians of -14.1 % of the points held out, of -33.2 % of the
runs, and of -27.5 % of mixtures without latent attention; with it, +2.3 %."""
DENSE = MeasuredEngines("plain dense models", frozenset(), TABLES_TPOT_ERROR, TOO_SHORT)
MIXTURES = MeasuredEngines("mixtures of experts", frozenset({"experts", "layers of several kinds"}), 0.1, TOO_SHORT)
LATENT = MeasuredEngines("mixtures of experts with latent attention", frozenset({"experts", "latent attention"}), 0.2)
"""TPOT of the latter two: benchmarks/accuracy/silicon_sample.py --experts (0.099 with gpt-oss-120b and MiniMax-M2.5,
0.193 with Kimi-K2.5). TTFT was off by less there than TABLES_TTFT_ERROR, which is mostly the way to the engine and told
of all."""
SEEN_OUTSIDE_MS = "14 to 48"
"""What measured TTFTs lack, added to the 6 ms assumed beside those for prompt tokens: 14 and 19 in
benchmarks/accuracy/kubecon.py at 31 requests/s and at 1; 19 to 48 in those runs of benchmarks/accuracy/public_runs.py
whose requests met few others on a card that has tables (A1, A4, D1, K2, G1). Some of it may be the steps' own error."""
USUALLY_OUTSIDE_S = 0.0225
"""About the median of the latter five, which is 22.7 ms with the tables as they are read now."""

MOST_EXTRAPOLATED = 0.05
"""Of a run's steps, and of those with a prefill; fewer hardly bend it."""

SHARES = ("extrapolated_share", "extrapolated_prefill_share", "far_share", "api_server_share", "piled_up_share")
"""Of the metrics of a simulation (tuner/evaluate.py), those that bear on how far to believe the others."""

SLOWED = 0.1
"""By so much more than predicted the slowest stretches of a recording take before something else is to blame: more than
where single steps scatter by themselves."""

ENOUGH_COMPOSITIONS = 20
"""Kinds of steps of a regime whose total time tells more than what one of them is off by."""

MOST_FAR = 0.01
"""Share of a run's steps, or of those with a prefill, that lie far outside, or are of a kind that the profile was made
without; more of them decide a p99."""

OUTSIDE = "the expected error is unknown: too many steps lie outside what the profile was made from"
SOME_OUTSIDE = "; of configurations with too many steps outside what the profile was made from, it is unknown"

MOST_PILED_UP = 0.05
"""Of the requests that arrive: below saturation a trace of a thousand ends with fewer above its middle, by chance."""


def step_time_error(profile: "Profile", runs: Iterable[Mapping[str, float]] = ()) -> float | None:
    """By what share all steps of `runs`, the metrics of simulations, may be too short or too long; None where nothing
    tells it.

    For measured steps it is the median error of one that was held out, of any kind or of one, or that of the total of
    all, or of all of one kind, or of all of one part of the recording, where it is larger, as with stalls or a machine
    that drifts; or of those beyond the others where more than MOST_EXTRAPOLATED of a run's steps, or of those with a
    prefill, lie outside what was measured. For kernel tables it
    is the median error of TPOT on measured engines, and not known of those that are in doubt. Steps that were held out
    tell nothing of those that lie far outside, nor of a kind that the profile was made without, which all do; and where
    none beyond the others could be held out, nothing tells of the extrapolated.
    """
    known = list(runs)
    if largest_share(known, "far_share") > MOST_FAR:
        return None
    if profile.source == KERNEL_TABLES:
        return _tables_error(profile)[1]
    everything = profile.step.error_of("all")
    if everything is None:
        return None
    over_time = profile.step.error_of(OVER_TIME)
    parts = over_time.mean if over_time else 0.0
    usual = max(_least_known(profile).median, abs(_most_biased(profile).bias), parts)
    if max(map(extrapolated_share, known), default=0.0) <= MOST_EXTRAPOLATED:
        return usual
    beyond = profile.step.error_of(BEYOND)
    return None if beyond is None else max(usual, beyond.largest)


def later_s(profile: "Profile") -> float:
    """By how many seconds a request may be later at the engine than the profile says, since the way there was not
    measured: what measured servers took in the median, less what is assumed. 0 where it was measured, and of a formula.
    """
    way = profile.overhead
    measured = profile.source in (STEP_RECORDS, MEASURED) and way != Overhead()
    told_s = way.before_s + way.after_s
    return 0.0 if measured or profile.source == CLOSED_FORM else max(USUALLY_OUTSIDE_S - told_s, 0.0)


def slowed_by(profile: "Profile") -> float:
    """By what share something else slowed the machine in the slowest stretches of the recording; 0 where they took
    hardly longer than an error of the fit explains, and where none are known."""
    parts, everything = profile.step.error_of(OVER_TIME), profile.step.error_of("all")
    slowest = (parts and parts.slowest) or 0.0
    return slowest if everything and slowest > max(SLOWED, 2 * everything.median) else 0.0


def _by_kind(profile: "Profile") -> list[RegimeError]:
    """The errors of all steps and of the kinds of them of which enough are known."""
    known = (error for error in profile.step.held_out if error.regime not in (BEYOND, OVER_TIME))
    return [error for error in known if error.regime == "all" or error.compositions >= ENOUGH_COMPOSITIONS]


def _most_biased(profile: "Profile") -> RegimeError:
    """That of _by_kind whose total is off by most: where one kind is too short and another too long, the total of all
    tells of neither."""
    return max(_by_kind(profile), key=lambda error: abs(error.bias))


def _least_known(profile: "Profile") -> RegimeError:
    """That of _by_kind whose median is largest: most steps are decodes, and first tokens hang on the others."""
    return max(_by_kind(profile), key=attrgetter("median"))


def expected_error(
    profile: "Profile", kv_cache: float = 0.0, runs: Iterable[Mapping[str, float]] = ()
) -> dict[str, Any]:
    """The error to expect of predictions, as JSON has it: shares, null where nothing is known; of times, none is known
    where that of the steps of all `runs`, the metrics of simulations, is not (`step_time_error`).

    `kv_cache` is the share by which the KV cache may be larger or smaller; 0 where it was told and not estimated.
    """
    outside = [step_time_error(profile, [run]) is None for run in runs] if step_time_error(profile) is not None else []
    unknown, some = bool(outside) and all(outside), any(outside)
    known = profile.source == KERNEL_TABLES and not unknown
    mean_ttft, mean_tpot = _tables_error(profile) if known else (None, None)
    return {
        "step_time": None if unknown else _share(profile, "all"),
        "step_time_extrapolated": _share(profile, BEYOND),
        "mean_ttft": mean_ttft,
        "mean_tpot": mean_tpot,
        "kv_cache": kv_cache or None,
        "sentence": OUTSIDE if unknown else _sentence(profile) + SOME_OUTSIDE * some,
        "outside_steps": _outside_steps(profile),
        "unmeasured": _unmeasured(profile),
    }


def _tables_error(profile: "Profile") -> tuple[float, float] | tuple[None, None]:
    """Of TTFT and TPOT, for a profile from kernel tables."""
    return (None, None) if profile.doubts else (TABLES_TTFT_ERROR, _compared(profile).tpot_error)


def _compared(profile: "Profile") -> MeasuredEngines:
    """Those that tell most of a profile from kernel tables."""
    if "latent attention" in profile.model_parts:
        return LATENT
    return MIXTURES if "experts" in profile.model_parts else DENSE


def extrapolated_share(run: Mapping[str, float]) -> float:
    """Of a run's steps or, where it is more, of those with a prefill: how many lie outside what was measured."""
    return max(run.get(name, 0.0) for name in ("extrapolated_share", "extrapolated_prefill_share"))


def largest_share(runs: Iterable[Mapping[str, float]], name: str) -> float:
    """The largest value of one of the shares that the metrics of simulations have; 0 where none has it."""
    return max((float(run.get(name, 0.0)) for run in runs), default=0.0)


def _unmeasured(profile: "Profile") -> list[str]:
    """Kinds of steps of which the profile was made without any, or from too few; none of a formula."""
    if profile.source == CLOSED_FORM:
        return []
    return [name for name, box in zip(REGIME_NAMES, profile.step.hull, strict=True) if (box[:, 0] > box[:, 1]).any()]


def _share(profile: "Profile", regime: str) -> dict[str, Any] | None:
    error = profile.step.error_of(regime)
    if error is None or profile.source == KERNEL_TABLES:  # a fit's error is not that of the tables
        return None
    return {"median": error.median, "within_90": error.p90}


def _sentence(profile: "Profile") -> str:
    everything = profile.step.error_of("all")
    if profile.doubts:
        return f"the expected error is unknown, because the kernel tables cannot be right: {'; '.join(profile.doubts)}"
    if profile.source == KERNEL_TABLES:
        return _tables_sentence(profile)
    if everything is None:
        return "the expected error is unknown: no measured step was held out to estimate it"
    within = "" if everything.p90 is None else f"; 90 % of single steps within {everything.p90:.1%}"
    worst, bias = _least_known(profile), _bias(everything, _most_biased(profile))
    kind = f", {worst.regime} steps by {worst.median:.1%}" if _exceeds(worst.median, everything.median) else ""
    parts = profile.step.error_of(OVER_TIME)
    changing = _over_time(parts, everything) + _spells(profile)
    return (
        f"for traffic like that measured, expect step times to be off by {everything.median:.1%} (median on kinds of "
        f"steps held out{within}){kind}{bias}{changing}; waiting times are off by more near saturation"
    )


def _exceeds(share: float, usual: float) -> bool:
    """Whether a share is the larger one, to the tenth of a per cent that is told."""
    return round(share, 3) > round(usual, 3)


def _over_time(parts: RegimeError | None, everything: RegimeError) -> str:
    """That whole parts of the recording are off by more than a step usually is, where they are."""
    if parts is None or not _exceeds(parts.mean, everything.median):
        return ""
    told = f"whole parts of the recording to be off by {parts.mean:.1%} (mean of {parts.compositions})"
    return f", and {told}, because the machine's speed changed"


def _spells(profile: "Profile") -> str:
    """That something slowed the machine for a while, again and again, which no simulated step knows."""
    slowed = slowed_by(profile)
    if not slowed:
        return ""
    return (
        f"; some stretches of the recording took {slowed:.0%} longer than their rows tell: something else slowed the "
        "machine then, and p99s and other loads may be off by as much"
    )


def _tables_sentence(profile: "Profile") -> str:
    known = _compared(profile)
    unseen = [part for part in profile.model_parts if part not in known.parts]
    lacking = f", none of which used {' or '.join(unseen)}" if unseen else ""
    return (
        f"expect mean TPOT to be off by about {known.tpot_error:.0%} and mean TTFT by {TABLES_TTFT_ERROR:.0%}"
        f"{known.ttft_side}: the median error on measured engines that were not overloaded, with {known.models}"
        f"{lacking}; more in bursts and near saturation"
    )


def _bias(everything: RegimeError, most: RegimeError) -> str:
    """By what the total is off, of all steps or of those of one kind, where that is more than a step usually is."""
    if not _exceeds(abs(most.bias), everything.median):
        return ""
    which = "all steps" if most.regime == "all" else f"all {most.regime} steps"
    return f", the total of {which} to be {abs(most.bias):.1%} too {'short' if most.bias < 0 else 'long'}"


def _outside_steps(profile: "Profile") -> str | None:
    """What is to be said of the time outside the engine's steps; nothing where it was measured, or none is assumed."""
    way = profile.overhead
    if profile.source in (STEP_RECORDS, MEASURED) and way == Overhead():
        return (
            "these TTFTs include no time outside the engine's steps (HTTP, tokeniser, client); on measured servers, "
            f"with their load generators, it was {SEEN_OUTSIDE_MS} ms, and more with long prompts"
        )
    if profile.source != KERNEL_TABLES:
        return None
    assumed_ms, tokens_ms = 1e3 * (way.before_s + way.after_s), 1e6 * way.before_token_s
    tokens = f", and {tokens_ms:.2g} ms for every 1,000 prompt tokens" if tokens_ms else ""
    return (
        f"every TTFT includes an assumed {assumed_ms:.0f} ms for HTTP, tokeniser and client{tokens}; on measured "
        f"servers, with their load generators, it was {SEEN_OUTSIDE_MS} ms in place of the {assumed_ms:.0f}, and more "
        "in bursts"
    )
