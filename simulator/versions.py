"""What differs between vLLM's versions 0.20 and 0.33: each rule and setting, named with the version that brought it.

A version here is major.minor: no patch release among them (0.20.0 to 0.20.2, 0.22.1, 0.25.1, 0.27.1) changes a rule.
Found by comparing vLLM's sources version by version; where nothing else is said they are in vllm/v1/core/sched/.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from ..errors import InputError
from .argument_names import MARKS, argument_lines

OLDEST, NEWEST = (0, 20), (0, 33)
"""The versions whose rules are known."""
ASSUMED = (0, 32)
"""The version that is simulated where none is named."""


def numbers_of(version: str | None) -> tuple[int, int] | None:
    """(major, minor) of `0.25.1`, `v0.25.1.dev3+cpu` and the like; None where no version is named."""
    found = re.match(r"v?(\d+)\.(\d+)", version or "")
    return (int(found[1]), int(found[2])) if found else None


def _numbers(version: str) -> tuple[int, int]:
    numbers = numbers_of(version)
    assert numbers is not None
    return numbers


def _since(version: str) -> Any:
    """A rule that `version` brought and all later ones have."""
    return field(default=_numbers(version) <= ASSUMED, metadata={"since": version})


@dataclass(frozen=True, slots=True)
class VersionRules:
    """Which rules an engine of some version has; the defaults are those of ASSUMED. EngineConfig has the settings, the
    same in every version but for those that are not there yet (`check_settings`)."""

    captures_token_budget: bool = _since("0.21")
    """A CUDA graph of max_num_batched_tokens itself (vllm/config/vllm.py, _set_cudagraph_sizes)."""
    overlaps_stages: bool = _since("0.23")
    """Async scheduling schedules one step ahead of the pipeline stages, and a request's next decode as many schedules
    later as there are stages (V2 model runner; VllmConfig.max_concurrent_batches). Before, a single stage only."""
    schedules_past_empty: bool = _since("0.23")
    """A schedule without rows does not end scheduling ahead (EngineCore.step_with_batch_queue, vllm/v1/engine/core.py).
    """
    admits_with_lookahead: bool = _since("0.23")
    """An admitted request gets the drafter's slots at once, not with its second row (scheduler.py, schedule)."""
    dflash_looks_further: bool = _since("0.23")
    """DFlash has a slot for the sampled token beside those of its drafts (scheduler.py, __init__)."""
    reuses_unhashed_first: bool = _since("0.24")
    """Freed blocks that nothing can hit go to the front of the free list (vllm/v1/core/block_pool.py, free_blocks)."""
    pads_admitted: bool = _since("0.25")
    """A request admitted behind decodes with one token to compute gets as many drafts as they have (scheduler.py)."""
    limits_threshold: bool = _since("0.27")
    """long_prefill_token_threshold above max_model_len is refused (vllm/config/scheduler.py, verify_max_model_len)."""
    delivers_stale_output: bool = _since("0.27")
    """A preempted request starts again only when its tokens in flight are there (scheduler.py, _preempt_request)."""
    counts_draft_slots: bool = _since("0.28")
    """The drafter's places in the batch are taken for every row that there is (scheduler.py, input_budget), not for
    max_num_seqs rows (vllm/config/vllm.py, _set_max_num_scheduled_tokens)."""
    overlaps_draft_model: bool = _since("0.28")
    """Async scheduling is on by default with a draft model too (VllmConfig.__post_init__, vllm/config/vllm.py)."""
    keeps_place: bool = _since("0.28")
    """Under PRIORITY the scan of running requests keeps its place when a request without a row is preempted; before,
    it passed one over (scheduler.py, schedule)."""
    pads_what_fits: bool = _since("0.29")
    """A request whose padding would pass max_model_len is admitted without it; before, it waited (scheduler.py)."""
    pads_after_hit: bool = _since("0.30")
    """A request that starts from the prefix cache gets padding without any decode beside it (scheduler.py)."""
    captures_more_on_blackwell: bool = _since("0.28")
    """CUDA graphs of up to 1024 tokens on data-centre Blackwell (vllm/config/vllm.py, _set_cudagraph_sizes)."""
    captures_draft_batches: bool = _since("0.29")
    """CUDA graphs of the decodes of whole batches with their drafts (vllm/config/vllm.py, uniform_decode_sizes)."""
    captures_max_num_seqs: bool = _since("0.31")
    """A CUDA graph of max_num_seqs itself (vllm/config/vllm.py, _set_cudagraph_sizes)."""
    spares_lone_request: bool = _since("0.31")
    """long_prefill_token_threshold is off for a request that is alone (scheduler.py, schedule)."""
    queues_skipped_with_others: bool = _since("0.31")
    """A request passed over for its tokens in flight goes back into the queue; before, into one that is emptied first
    (scheduler.py, skipped_waiting)."""
    cuts_long_answers: bool = _since("0.32")
    """A request whose prompt and max_tokens are longer than max_model_len together is answered until there; before, it
    was refused (vllm/renderers/params.py, max_input_tokens)."""
    scans_past_own_preemption: bool = _since("0.33")
    """Under PRIORITY a running request that preempts itself does not end the scan of those behind it (scheduler.py)."""
    publishes_verified: bool = _since("0.33")
    """Blocks that accepted drafts fill can be hit once the drafts are verified, without async scheduling too
    (scheduler.py, update_from_output); before, with the request's next row."""
    hashes_lookahead: bool = _since("0.33")
    """The hash of a block covers the token behind it, which drafters such as EAGLE read, so that they need not compute
    the last block found again (VllmConfig.num_hash_lookahead_tokens, vllm/config/vllm.py)."""
    dflash_keeps_last_hit: bool = _since("0.33")
    """Nor does DFlash, which reads no such token (SpeculativeConfig.needs_eagle_block_drop)."""
    dflash_limits_seqs: bool = _since("0.33")
    """With DFlash no more requests are active than max_num_batched_tokens has places for in one draft pass
    (VllmConfig._set_max_num_scheduled_tokens)."""
    dflash_takes_no_slots: bool = _since("0.33")
    """DFlash's drafts take no places in the batch of a row (SpeculativeConfig.max_num_new_slots_for_drafting)."""
    overlaps_ngram: bool = _since("0.33")
    """Async scheduling works with ngram, and is on by default (VllmConfig.__post_init__)."""
    delays_prefills: bool = _since("0.33")
    """prefill_schedule_interval holds in an engine without data parallelism (scheduler.py, schedule)."""


@cache
def rules_for(version: str | None) -> VersionRules:
    """The rules of a vLLM version: ASSUMED for None, the newest known for later ones, the oldest for earlier ones."""
    numbers = numbers_of(version) or ASSUMED
    return VersionRules(**{rule.name: numbers >= _numbers(rule.metadata["since"]) for rule in fields(VersionRules)})


def version_note(version: str | None) -> str | None:
    """What a user of this version ought to know: that its rules are not known; None where they are."""
    numbers = numbers_of(version) or ASSUMED
    if OLDEST <= numbers <= NEWEST:
        return None
    known, kind = (OLDEST, "older") if numbers < OLDEST else (NEWEST, "newer")
    return f"vLLM {version} is {kind} than what slotune knows: scheduled by the rules of {known[0]}.{known[1]}"


@cache
def argument_versions() -> dict[str, tuple[str | None, str | None]]:
    """vLLM's engine arguments: the version that brought each, None for those that the oldest known version has, and
    the first that no longer has it, None where all later ones do.

    Source: fields of AsyncEngineArgs (vllm/engine/arg_utils.py) in every version.
    """
    return {name: _lifetime([word for word in words if word not in MARKS]) for name, words in argument_lines().items()}


def _lifetime(versions: list[str]) -> tuple[str | None, str | None]:
    """`0.26 <0.30` is from 0.26 to before 0.30."""
    since = [version for version in versions if not version.startswith("<")]
    gone = [version[1:] for version in versions if version.startswith("<")]
    return since[0] if since else None, gone[0] if gone else None


NEW_VALUES = {
    ("kv_cache_dtype", "int4_per_token_head"): "0.25",
    ("kv_cache_dtype", "nvfp4_4over6"): "0.28",
    ("kv_cache_dtype", "nvfp4_ds_mla"): "0.30",
    ("kv_cache_dtype", "ultraquant_4bit"): "0.32",
    **{("kv_cache_dtype", f"octave_{kind}"): "0.33" for kind in ("k3v4", "k3v3", "k3v3_compact")},
}
"""Of settings that there were before: the version that brought them."""


def check_settings(settings: Mapping[str, Any], version: str | None) -> None:
    """Raises InputError for the first of these settings that this version of vLLM does not have yet, or no longer."""
    numbers = numbers_of(version) or ASSUMED
    engine = f"the profile's engine is vLLM {version or f'{ASSUMED[0]}.{ASSUMED[1]}, where it names none'}"
    for name, value in settings.items():
        since, gone = argument_versions().get(name, (None, None))
        if gone and numbers >= _numbers(gone):
            raise InputError(f"{name}: was dropped in vLLM {gone}, and {engine}")
        what, since = (name, since) if since else (f"{name}={value}", NEW_VALUES.get((name, str(value))))
        if since and numbers < _numbers(since):
            raise InputError(f"{what}: came with vLLM {since}, and {engine}")
