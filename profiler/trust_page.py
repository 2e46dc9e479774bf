"""How far a prediction may be trusted, in the words that stand beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from .trust import MOST_EXTRAPOLATED, MOST_FAR, MOST_PILED_UP, extrapolated_share

MOST_OF_CACHE = 0.05
"""Of an estimated KV cache; less moves no number by more than steps that are off do."""

MOST_OF_API_SERVER = 0.9
"""Of a run's time. At 0.83, by the constants of simulator/api_server.py, the fourth rate of
benchmarks/accuracy/kubecon.py is met, and its server got to 1.15; at 2.2 (K1 of benchmarks/accuracy/public_runs.py) a
server gave half of what its GPU could."""


def piled_up(share: float) -> list[str]:
    """What is told where so large a share of the requests is added to those under way towards the end of the trace."""
    if not share > MOST_PILED_UP:
        return []
    return [
        f"{share:.0%} of the requests pile up towards the end of the trace: the engine does not keep up, or the trace "
        "is too short to tell; a longer load may miss targets that are met here, and `slotune plan` finds a rate "
        "that the engine sustains"
    ]


def lines(trust: Mapping[str, Any]) -> list[str]:
    """What a person is told beside every prediction: the source, the error to expect, how much is extrapolated."""
    told = [trust["provenance"], trust["expected_error"]["sentence"]]
    if left_out := trust["left_out"]:
        settings = f"settings whose effect is not in these numbers: {', '.join(left_out)}"
        is_known = trust["expected_error"]["step_time"] or trust["expected_error"]["mean_tpot"]
        told.append(f"that error leaves out {settings}" if is_known else settings)
    if outside := trust["expected_error"]["outside_steps"]:
        told.append(outside)
    if (share := trust["expected_error"]["kv_cache"] or 0.0) > MOST_OF_CACHE:
        told.append(f"the size of the KV cache is an estimate, up to {share:.0%} off: one start of a real engine tells")
    if (share := trust["api_server_share"]) > MOST_OF_API_SERVER:
        told.append(
            f"the API server, one process, would be busy about {share:.0%} of the time on a cloud machine's core: if "
            "it cannot keep up, less is served than predicted here, and later (`vllm serve --api-server-count` helps)"
        )
    told += piled_up(trust["piled_up_share"])
    return told + _extrapolated(trust)


def extrapolated_text(run: Mapping[str, float]) -> str | None:
    """Of one run among others, in few words: the share of its steps, or of those with a prefill, that lie outside what
    the profile was made from, where that is enough to bend it; and whether they lie so far outside that nothing tells
    what they take."""
    share = extrapolated_share(run)
    far = run.get("far_share", 0.0) > MOST_FAR
    if not (far or share > MOST_EXTRAPOLATED):
        return None
    return f"{share:.0%}, far" if far else f"{share:.0%}"


def _extrapolated(trust: Mapping[str, Any]) -> list[str]:
    """What is told of steps outside what the profile was made from, where there are any."""
    if not trust["extrapolated_share"] > 0:
        return []
    share, prefills = (max(trust[name], 0.001) for name in ("extrapolated_share", "extrapolated_prefill_share"))
    which = f"{share:.1%} of the steps" + (f", {prefills:.1%} of those with a prefill," if prefills > share else "")
    beyond = trust["expected_error"]["step_time_extrapolated"]
    known = ""
    if beyond:
        known = (
            f", by {beyond['median']:.1%} (median) up to twice its sizes, as when the larger half was predicted from "
            "the smaller, and by an unknown amount farther out"
        )
    told = [f"{which} lie outside what the profile was made from: extrapolated, off by more{known}"]
    if (far := trust["far_share"]) > MOST_FAR:
        told.append(
            f"{far:.1%} of the steps, or of those with a prefill, are more than twice as large as any that the profile "
            "was made from, or of another size where all of those were alike, or on another side of the largest CUDA "
            f"graph{_or_unmeasured(trust['expected_error']['unmeasured'])}: their time is unknown"
        )
    return told


def _or_unmeasured(kinds: Sequence[str]) -> str:
    """That steps may be far outside because they are of kinds that the profile was made without."""
    return f", or of a kind that it was made from none of, or too few ({', '.join(kinds)})" if kinds else ""
