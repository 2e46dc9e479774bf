"""Speculative decoding as vLLM's scheduler sees it: how many tokens are drafted, and how many are accepted.

Source: SpeculativeConfig (vllm/config/speculative.py) and VllmConfig.num_lookahead_tokens (vllm/config/vllm.py). What a
draft costs is not known here: it is part of the step's time only where the profile was measured with it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import I8, I64
from ..errors import InputError, unknown_name
from .versions import VersionRules

READS_HIDDEN_STATES = frozenset({"eagle", "eagle3", "mtp", "dflash"})
"""Methods that draft from the model's own hidden states (SpeculativeConfig.use_eagle)."""
ASYNCHRONOUS = READS_HIDDEN_STATES | {"draft_model", "ngram_gpu"}
"""Methods that async scheduling works with (VllmConfig.__post_init__)."""
GONE = frozenset({"medusa", "mlp_speculator"})
GONE_SINCE = (0, 33)
"""Methods that vLLM no longer has, from that version on."""
METHODS = tuple(sorted(ASYNCHRONOUS | GONE | {"ngram"}))
OTHER_METHODS = frozenset({"custom_class", "dspark", "extract_hidden_states", "suffix"})
"""Of vLLM's methods (SpeculativeMethod, vllm/config/speculative.py), those that are not simulated."""
_MTP_NAMES = """
    deepseek_mtp dots3_note_mtp mimo_mtp mimo_v2_mtp glm4_moe_mtp glm4_moe_lite_mtp glm_ocr_mtp ernie_mtp nemotron_h_mtp
    exaone_moe_mtp exaone4_5_mtp qwen3_next_mtp qwen4_exp_mtp qwen3_5_mtp longcat_flash_mtp bailing_hybrid_v3_mtp
    minimax_m3_mtp bailing_hybrid_mtp kimi_k3_mtp pangu_ultra_moe_mtp step3p5_mtp hy_v3_mtp hy_v4_mtp gemma4_mtp
    inkling_mtp glm5_next_mtp
"""
MTP_NAMES = tuple(_MTP_NAMES.split())
"""Names that vLLM takes for mtp (MTPModelTypes and SpeculativeConfig.__post_init__)."""
MATCHES_TEXT = frozenset({"ngram", "ngram_gpu"})
"""Methods that draft without any model."""
NEEDS_DRAFTER = frozenset(METHODS) - MATCHES_TEXT - {"mtp"}
"""Methods that draft with a model of their own."""
MOST_TOKENS = 127
"""Drafts at once: how many of them are accepted is counted in eight bits."""
UNSIMULATED = frozenset(
    {"num_speculative_tokens_per_batch_size", "enable_adaptive_verification", "disable_padded_drafter_batch"}
)
"""Keys that change the schedule in ways that are not simulated."""
_KEYS = """
    enforce_eager num_speculative_tokens model method draft_tensor_parallel_size tensor_parallel_size quantization
    moe_backend attention_backend kv_cache_dtype max_model_len revision code_revision index_share_for_mtp_iteration
    disable_padded_drafter_batch disable_eagle_block_drop disable_lookahead_block_hashes use_local_argmax_reduction
    use_heterogeneous_vocab prompt_lookup_max prompt_lookup_min parallel_drafting
    num_speculative_tokens_per_batch_size suffix_decoding_max_tree_depth suffix_decoding_max_cached_requests
    suffix_decoding_max_spec_factor suffix_decoding_min_token_prob draft_load_config rejection_sample_method
    synthetic_acceptance_rates synthetic_acceptance_length enable_adaptive_verification draft_sample_method
    dspark_draft_topk draft_lm_head_quantization xpress_topc fly_window_size fly_entropy_threshold fly_entropy_top_k
"""
KEYS = frozenset(_KEYS.split())
"""What vLLM's SpeculativeConfig takes."""

KEYS_SINCE = {
    "attention_backend": (0, 21),
    "draft_sample_method": (0, 21),
    "num_speculative_tokens_per_batch_size": (0, 24),
    "use_heterogeneous_vocab": (0, 25),
    "kv_cache_dtype": (0, 26),
    "dspark_draft_topk": (0, 28),
    "enable_adaptive_verification": (0, 28),
    "index_share_for_mtp_iteration": (0, 29),
    "disable_eagle_block_drop": (0, 30),
    "disable_lookahead_block_hashes": (0, 33),
    "draft_lm_head_quantization": (0, 33),
    "xpress_topc": (0, 33),
    "fly_window_size": (0, 33),
    "fly_entropy_threshold": (0, 33),
    "fly_entropy_top_k": (0, 33),
}
"""Of these, the version that brought those that 0.20 does not take."""

SPEC_ARGUMENTS = {"spec_method": "method", "spec_model": "model", "spec_tokens": "num_speculative_tokens"}
"""Arguments of their own for some of these (EngineArgs.create_speculative_config, vllm/engine/arg_utils.py)."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """A `speculative_config` with the acceptance that is assumed."""

    method: str
    num_speculative_tokens: int
    acceptance_rates: tuple[float, ...]
    """For each draft position the chance that it and all before it are accepted: vLLM's
    synthetic_acceptance_rates, and what `vllm bench serve` measures as spec_decode_per_position_acceptance_rates where
    every decode verifies drafts."""
    parallel_drafting: bool = False
    disable_eagle_block_drop: bool = False
    disable_lookahead_block_hashes: bool = False
    max_model_len: int | None = None
    """Context that the drafter is given; None: vLLM takes the shorter of its own and the engine's."""

    @property
    def reads_hidden_states(self) -> bool:
        """Whether the drafter needs the model's hidden states, which are not in the prefix cache."""
        return self.method in READS_HIDDEN_STATES

    def drops_last_hit(self, version: VersionRules) -> bool:
        """Whether the last block found in the prefix cache is computed again (use_eagle_block_drop)."""
        return self._distrusts_last_hit(version) and not self.hash_lookahead(version)

    def hash_lookahead(self, version: VersionRules) -> int:
        """Tokens behind a block that its hash covers (VllmConfig.num_hash_lookahead_tokens)."""
        covered = version.hashes_lookahead and not self.disable_lookahead_block_hashes
        return int(covered and self._distrusts_last_hit(version))

    def _distrusts_last_hit(self, version: VersionRules) -> bool:
        keeps = self.disable_eagle_block_drop or (self.method == "dflash" and version.dflash_keeps_last_hit)
        return self.reads_hidden_states and not keeps

    def is_asynchronous(self, version: VersionRules) -> bool:
        """Whether async scheduling works with the method."""
        return self.method in ASYNCHRONOUS or (self.method == "ngram" and version.overlaps_ngram)

    def lookahead_tokens(self, version: VersionRules) -> int:
        """KV slots reserved beyond a row's tokens for the drafter (VllmConfig.num_lookahead_tokens)."""
        if self.method == "dflash":
            return self.num_speculative_tokens + version.dflash_looks_further
        return self.num_speculative_tokens if self.reads_hidden_states or self.method == "draft_model" else 0

    def draft_slots(self, version: VersionRules) -> int:
        """Places in the input batch that a row takes beside its tokens (max_num_new_slots_for_drafting)."""
        if self.method == "dflash" and version.dflash_takes_no_slots:
            return 0
        if (self.method == "dflash" and version.counts_draft_slots) or (
            self.method == "draft_model" and self.parallel_drafting
        ):
            return self.num_speculative_tokens
        if self.parallel_drafting:
            return self.num_speculative_tokens - 1
        return int(self.method == "draft_model")

    def accepted(self, output_tokens: I64, seed: int) -> I8:
        """Drafts accepted by a verification, for every output token of every request, one behind the other.

        Entry k of a request is for the verification that begins when it has made k tokens. One uniform number decides:
        position i is accepted where it lies below acceptance_rates[i], which gives each position its rate.
        """
        chance = np.random.default_rng(seed).random(int(output_tokens.sum()), dtype=np.float32)
        accepted = np.zeros(len(chance), np.int8)
        for rate in self.acceptance_rates:
            accepted += chance < rate
        return accepted


def parse_speculation(config: Mapping[str, Any] | str, version: tuple[int, int] | None = None) -> Speculation:
    """Speculation from vLLM's `speculative_config`, a mapping or its JSON.

    Raises InputError for what vLLM refuses (of `version`, where it is given), for a method that is not simulated, and
    where no acceptance is given (`rejection_sample_method: synthetic`, vLLM's own way to state it).
    """
    given = _mapping(config)
    _check_keys(given)
    method = _checked_method(given.get("method"))
    _check_lookup(given)
    if version is not None:
        _check_version(given, version)
    tokens = _checked_tokens(given.get("num_speculative_tokens"))
    return Speculation(
        method=method,
        num_speculative_tokens=tokens,
        acceptance_rates=_acceptance_rates(given, tokens),
        parallel_drafting=bool(given.get("parallel_drafting")) or method == "dflash",
        disable_eagle_block_drop=bool(given.get("disable_eagle_block_drop")),
        disable_lookahead_block_hashes=bool(given.get("disable_lookahead_block_hashes")),
        max_model_len=None if method in MATCHES_TEXT else _checked_context(given.get("max_model_len")),
    )


def _check_keys(given: Mapping[str, Any]) -> None:
    for name in map(str, given):
        if name not in KEYS:
            raise unknown_name("key of speculative_config", name, sorted(KEYS))
    for name in sorted(UNSIMULATED & given.keys()):
        if given[name]:
            raise InputError(f"speculative_config: {name} is not simulated")


def _checked_method(method: Any) -> str:
    if method is None:
        told = "vLLM infers it from the draft model, here name it"
        raise InputError(f"speculative_config: has no method; {told}, one of {', '.join(METHODS)}")
    if method in OTHER_METHODS:
        raise InputError(f"speculative_config: method {method} is not simulated; {', '.join(METHODS)} are")
    if method not in METHODS:
        raise InputError(f"speculative_config: method {method!r} is not one of {', '.join(METHODS)}")
    return str(method)


def _check_version(given: Mapping[str, Any], version: tuple[int, int]) -> None:
    if version >= GONE_SINCE and given["method"] in GONE:
        raise InputError(f"speculative_config: vLLM has no method {given['method']} since 0.33")
    for name in sorted(KEYS_SINCE.keys() & given.keys()):
        since = KEYS_SINCE[name]
        if version < since:
            told = f"came with vLLM {since[0]}.{since[1]}, and the profile's engine is older"
            raise InputError(f"speculative_config: {name} {told}")


def _check_lookup(given: Mapping[str, Any]) -> None:
    """The lengths of what ngram looks up (SpeculativeConfig.__post_init__)."""
    lengths = {name: given[name] for name in ("prompt_lookup_min", "prompt_lookup_max") if given.get(name) is not None}
    for name, length in lengths.items():
        if type(length) is not int or length < 1:
            raise InputError(f"speculative_config: {name}={length!r}: must be a whole number, at least 1")
    least, most = (lengths.get(f"prompt_lookup_{end}") for end in ("min", "max"))
    if given["method"] in MATCHES_TEXT and least and most and least > most:
        raise InputError("speculative_config: prompt_lookup_min is above prompt_lookup_max")


def _checked_tokens(tokens: Any) -> int:
    if type(tokens) is not int or not 1 <= tokens <= MOST_TOKENS:
        raise InputError(f"speculative_config: num_speculative_tokens={tokens!r}: must be 1 to {MOST_TOKENS}")
    return tokens


def _checked_context(tokens: Any) -> int | None:
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise InputError(f"speculative_config: max_model_len={tokens!r}: must be a whole number, at least 1")
    return tokens


def assume_acceptance(config: Mapping[str, Any] | str, given: str) -> dict[str, Any]:
    """`config` with the acceptance that `given` names: a rate, or a file (`acceptance_rates_of`)."""
    mapping = _mapping(config)
    tokens = _checked_tokens(mapping.get("num_speculative_tokens"))
    rates = {"synthetic_acceptance_rates": list(acceptance_rates_of(given, tokens))}
    return without_acceptance(mapping) | {"rejection_sample_method": "synthetic"} | rates


def acceptance_rates_of(given: str, tokens: int) -> tuple[float, ...]:
    """Acceptance rates of `tokens` draft positions.

    A number r is the chance that a draft is accepted where all before it were (alpha of Leviathan et al., arXiv
    2211.17192), so position i has r ** (i + 1). A file is the result of `vllm bench serve --save-result`, or a JSON
    list of the rates of the positions.
    """
    try:
        rate = float(given)
    except ValueError:
        return _checked_rates(_rates_in(Path(given), tokens), tokens, given)
    if not 0 <= rate <= 1:
        raise InputError(f"--acceptance-rate {given}: must lie in [0, 1]")
    return _checked_rates([round(rate ** (position + 1), 9) for position in range(tokens)], tokens, given)


def with_spec_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with SPEC_ARGUMENTS within `speculative_config`. Raises InputError for what is given in both."""
    given = {name: settings[name] for name in SPEC_ARGUMENTS if settings.get(name) is not None}
    if not given:
        return dict(settings)
    config = _mapping(settings.get("speculative_config") or {})
    for name in given:
        if SPEC_ARGUMENTS[name] in config:
            raise InputError(f"{name}: speculative_config has a {SPEC_ARGUMENTS[name]} too; give one of them")
    others = {name: value for name, value in settings.items() if name not in SPEC_ARGUMENTS}
    return others | {"speculative_config": config | {SPEC_ARGUMENTS[name]: value for name, value in given.items()}}


def with_drafts(change: Mapping[str, Any], base: Mapping[str, Any], acceptance: str | None = None) -> dict[str, Any]:
    """`change`, of settings like `base`, with SPEC_ARGUMENTS within a `speculative_config`, over that of the base, and
    with so many drafts accepted where `acceptance` says it (`acceptance_rates_of`) and anything is drafted. Raises
    InputError for what the change gives in both.
    """
    if "speculative_config" in change:
        change = with_spec_arguments(change)
    own = {name: value for name, value in change.items() if name not in SPEC_ARGUMENTS}
    given = {SPEC_ARGUMENTS[name]: change[name] for name in SPEC_ARGUMENTS if change.get(name) is not None}
    config = _mapping({**base, **own}.get("speculative_config") or {}) | given
    if not config or not (given or acceptance or "speculative_config" in own):
        return own
    if acceptance and isinstance(config.get("num_speculative_tokens"), int):
        config = assume_acceptance(config, acceptance)
    return own | {"speculative_config": config}


def drafts_of(settings: Mapping[str, Any]) -> int:
    """Drafts a decode, by settings; 0 without speculation or where it is not said."""
    config = settings.get("speculative_config")
    tokens = _mapping(config).get("num_speculative_tokens") if config else 0
    return tokens if isinstance(tokens, int) else 0


def drafting_method(config: Mapping[str, Any] | str | None) -> str | None:
    """The method of a `speculative_config`; None without one."""
    return _mapping(config or {}).get("method")


def lacks_drafter(config: Mapping[str, Any] | str | None) -> bool:
    """Whether vLLM would ask which model drafts (SpeculativeConfig.__post_init__): it does not matter to a schedule."""
    given = _mapping(config or {})
    return given.get("method") in NEEDS_DRAFTER and not given.get("model")


def without_acceptance(config: Mapping[str, Any] | str) -> dict[str, Any]:
    """`config` as an engine that serves people takes it: drafts are judged by the model, not by an assumed rate."""
    mapping = _mapping(config)
    assumed = mapping.get("rejection_sample_method") == "synthetic"
    return {
        name: value
        for name, value in mapping.items()
        if not (name.startswith("synthetic_") or (assumed and name == "rejection_sample_method"))
    }


def _mapping(config: Mapping[str, Any] | str) -> dict[str, Any]:
    """The keys of a `speculative_config`, a method of MTP_NAMES as mtp."""
    try:
        found = json.loads(config) if isinstance(config, str) else config
    except json.JSONDecodeError as error:
        raise InputError(f"speculative_config: not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise InputError(f"speculative_config={config!r}: expected a mapping with method and num_speculative_tokens")
    return {**found, "method": "mtp"} if found.get("method") in MTP_NAMES else dict(found)


def _acceptance_rates(given: Mapping[str, Any], tokens: int) -> tuple[float, ...]:
    """SpeculativeConfig._resolve_synthetic_acceptance_rates."""
    rates: Any = given.get("synthetic_acceptance_rates")
    length: Any = given.get("synthetic_acceptance_length")
    if given.get("rejection_sample_method") != "synthetic" or (rates is None) == (length is None):
        raise InputError(
            "speculative_config: how many drafts are accepted is not known; give --acceptance-rate, or "
            "rejection_sample_method=synthetic with synthetic_acceptance_rates or synthetic_acceptance_length"
        )
    if rates is not None:
        return _checked_rates(rates, tokens, "synthetic_acceptance_rates")
    if not isinstance(length, int | float) or not 1 <= length <= tokens + 1:
        raise InputError(f"speculative_config: synthetic_acceptance_length={length}: must be 1 to {tokens + 1}")
    return tuple(float(np.clip(length - 1 - position, 0, 1)) for position in range(tokens))


def _checked_rates(rates: Any, tokens: int, where: str) -> tuple[float, ...]:
    if not isinstance(rates, list) or len(rates) != tokens or not all(isinstance(r, int | float) for r in rates):
        raise InputError(f"{where}: expected {tokens} acceptance rates, one a draft position, found {rates!r}")
    if not all(0 <= rate <= 1 for rate in rates) or sorted(rates, reverse=True) != rates:
        raise InputError(f"{where}: acceptance rates must lie in [0, 1] and not rise, found {rates!r}")
    return tuple(float(rate) for rate in rates)


def _rates_in(path: Path, tokens: int) -> Any:
    """The rates of the first `tokens` positions that the file has, over all decodes."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--acceptance-rate {path}: neither a number nor a file: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"--acceptance-rate {path}: not JSON: {error}") from error
    if isinstance(content, dict):
        share, content = _drafting_share(content), content.get("spec_decode_per_position_acceptance_rates")
        if isinstance(content, list) and all(isinstance(rate, int | float) for rate in content):
            content = [rate * share for rate in content]
    return content[:tokens] if isinstance(content, list) else content


def _drafting_share(result: Mapping[str, Any]) -> float:
    """The share of decodes that verified a draft, by the result of a `vllm bench serve`; 1 where it does not tell.

    Its rates are over those decodes alone (Scheduler.make_spec_decoding_stats, vllm/v1/core/sched/scheduler.py, and
    SpecDecodingStats.observe_draft, vllm/v1/spec_decode/metrics.py, as of 0.32), and ngram drafts only where it finds a
    match. A decode makes one token beside the drafts accepted; each request's first token comes of its prefill.
    """
    names = ("spec_decode_num_drafts", "spec_decode_accepted_tokens", "total_output_tokens", "completed")
    counts = [count for count in map(result.get, names) if isinstance(count, int | float)]
    if len(counts) < len(names):
        return 1.0
    drafts, accepted, made, answers = counts
    decodes = made - accepted - answers
    return min(1.0, drafts / decodes) if drafts > 0 and decodes > 0 else 1.0
