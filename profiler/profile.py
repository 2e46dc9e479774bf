"""A profile: step times, KV capacity and overhead of one engine on one machine, and how far to trust them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from ..arrays import F64
from ..errors import InputError
from ..simulator.engine_config import PROFILED, UNLIMITED_MODEL_LEN, EngineConfig, resolve, simulated_by
from ..simulator.settings import checked
from ..simulator.timing import Overhead, Timing
from ..simulator.versions import check_settings, version_note
from .graph_sizes import CAPTURE_FOLLOWS, GRAPH_SETTINGS, captured_graph_sizes, is_interactive
from .kv_capacity import KvCapacity
from .provenance import CLOSED_FORM, PROVENANCE
from .recorded_blocks import RECORDED
from .surrogate.model import FittedStepTime
from .surrogate.samples import StepSamples
from .trust import SHARES, expected_error, largest_share
from .unrepresented import GENERATING, NOT_SIMULATED, is_as_made, not_represented, unrepresented

MOST_TERM_S = 3600.0
"""Of a closed form, an hour for one token: with much more, times of simulations add up to infinity."""
UNLIMITED_BLOCKS = 1 << 20
"""Blocks where nothing is known of the memory: 16 million tokens at block size 16, more than batch limits let in."""
KERNEL_BLOCK = 16
"""Tokens of the smallest block that vLLM's attention kernels for GPUs read (get_supported_kernel_block_sizes,
vllm/v1/attention/backends/)."""
PARALLELISM = ("tensor_parallel_size", "pipeline_parallel_size")
"""Facts of an engine that say how the model is cut over GPUs, as vLLM's arguments have it."""
CHOICES = ("dtype", "kv_cache_dtype", "quantization", "attention_backend")
"""Those that are somebody's choice or, where nobody made one, the engine's."""
ModelPart = Literal["experts", "latent attention", "layers of several kinds", "an image encoder"]
"""What a model has besides plain dense layers, and which measured engines were compared with may have lacked."""
PERFORMANCE_MODES = ("balanced", "interactivity", "throughput")
"""vLLM's (PerformanceMode, vllm/config/vllm.py), its default first."""
WHATEVER_MEMORY = {"num_gpu_blocks_override": UNLIMITED_BLOCKS}
"""Settings under which no engine is refused for want of memory."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Which engine the profile speaks of. None: not known. Raises InputError for names that are no text."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: str = "vllm"
    version: str | None = None
    model: str | None = None
    device: str | None = None
    """GPU or CPU, as its driver names it."""
    driver: str | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    quantization: str | None = None
    attention_backend: str | None = None
    derived_max_model_len: int | None = None
    """The longest context of the model, by its config."""

    def __post_init__(self) -> None:
        for name in CHOICES:
            value = getattr(self, name)
            if not (value is None or isinstance(value, str)):
                raise InputError(f"{name}={value}: takes a name, not {type(value).__name__}")

    def check_max_model_len(self, asked: int) -> None:
        """Raise InputError for more tokens than the model takes (_get_and_verify_max_len, vllm/config/model.py)."""
        most = self.derived_max_model_len
        if most is not None and most < asked != UNLIMITED_MODEL_LEN:
            raise InputError(
                f"max_model_len={asked}: the model takes {most} tokens; vLLM refuses more, unless hf_overrides change "
                "the model"
            )


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything about time and memory that a simulation needs, and where each number comes from."""

    name: str
    source: str
    """One of PROVENANCE."""
    step: FittedStepTime
    engine: EngineFacts = EngineFacts()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What the engine takes for settings that nobody gives, where it differs from EngineConfig's own defaults."""
    cuda_graphs: bool = False
    """Whether the engine captures CUDA graphs, by vLLM's rule on max_num_seqs."""
    kv: KvCapacity | None = None
    overhead: Overhead = field(default_factory=Overhead)
    samples: StepSamples | None = None
    """The steps that were fitted; a profile that was loaded leaves them on disk (`surrogate.samples.read_samples`)."""
    notes: tuple[str, ...] = ()
    """What a user of the profile ought to know: what is missing, what was assumed."""
    model_parts: tuple[ModelPart, ...] = ()
    """As far as the kernel tables, or the engine's KV cache, tell: whose error is to be expected, and what is not
    simulated."""
    doubts: tuple[str, ...] = ()
    """Where the kernel tables that it was made from cannot be right: the error that was seen on others is not told."""

    def __post_init__(self) -> None:
        if self.source not in PROVENANCE:
            raise InputError(f"profile source {self.source!r}: must be one of {', '.join(PROVENANCE)}")
        for name, known in self.parallelism.items():
            if self.defaults.get(name, known) != known:
                raise InputError(f"{name}={self.defaults[name]}: the profiled engine was cut by {known}")
        _check_memory_share(self.defaults)
        refuse_unsimulated(self.defaults)

    def timing(self, settings: Mapping[str, Any] | None = None) -> Timing:
        """Step times and overhead; `settings` choose the CUDA-graph sizes that the engine would capture.

        Where they change none of what the sizes follow, the sizes are those of the profiled engine. Where it captured
        some, enforce_eager leaves them: how long a step without any waits for the host is not known.
        """
        sizes = self.graph_sizes(checked(settings or {}))
        unchanged = sizes is self.step.graph_sizes
        return Timing(self.step.model if unchanged else self.step.model_with(sizes), self.overhead)

    def graph_sizes(self, settings: Mapping[str, Any]) -> F64:
        """The CUDA-graph sizes that times are predicted with: those the engine would capture, as `timing` says."""
        if self.cuda_graphs and settings.get("enforce_eager"):  # without padding alone, eager steps would look cheaper
            settings = {name: value for name, value in settings.items() if name not in GRAPH_SETTINGS}
            if self.engine_or_none(settings) is None:
                return self.step.graph_sizes
        asked = {**self.defaults, **settings}
        unchanged = all(asked.get(name) == self.defaults.get(name) for name in CAPTURE_FOLLOWS)
        if not self.cuda_graphs or (unchanged and is_interactive(asked) == is_interactive(self.defaults)):
            return self.step.graph_sizes
        engine = self.engine_config(settings)
        return captured_graph_sizes(engine, self._graph_settings(settings) | self._own_limit(asked), self.engine.device)

    def _graph_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Over the defaults, `settings`; sizes among them replace a default limit too."""
        asked = {**self.defaults, **settings}
        if settings.get("cudagraph_capture_sizes") is not None and "max_cudagraph_capture_size" not in settings:
            asked.pop("max_cudagraph_capture_size", None)
        return asked

    def _own_limit(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The largest size of the profiled engine, where nobody asks for sizes and vLLM's general rule gives another:
        vLLM then sets a limit for the model, as for gpt-oss, whatever max_num_seqs is (GptOssForCausalLMConfig,
        vllm/model_executor/models/config.py)."""
        engine = self.engine_or_none(WHATEVER_MEMORY)
        if engine is None or not len(self.step.graph_sizes) or any(asked.get(name) for name in GRAPH_SETTINGS):
            return {}
        own = int(self.step.graph_sizes[-1])
        general = captured_graph_sizes(engine, self.defaults, self.engine.device)
        return {} if own <= general[-1] else {"max_cudagraph_capture_size": own}

    def engine_config(self, settings: Mapping[str, Any]) -> EngineConfig:
        """The engine that would run with these settings on the profiled machine.

        Raises InputError for what vLLM refuses: unknown names, values of other types, bad combinations, CUDA-graph
        sizes that cannot be, and a max_model_len that the model does not take or the KV cache cannot hold.
        Without a model of the memory any number of blocks is taken: what one sequence needs is then not known either.
        """
        settings = checked(settings)
        check_settings(settings, self.engine.version)  # first: what vLLM no longer has, it does not refuse by value
        self._check_parallelism(settings)
        _check_memory_share(settings)
        override = settings.get("num_gpu_blocks_override", self.defaults.get("num_gpu_blocks_override"))
        blocks = UNLIMITED_BLOCKS if override is None else int(override)
        engine = resolve(settings, {**self.defaults, **self.parallelism}, blocks, self.engine.version)
        self._check_block_size(engine)
        if not {**self.defaults, **settings}.get("hf_overrides"):  # which may make it another model's
            self.engine.check_max_model_len(engine.max_model_len)
        if self.cuda_graphs:
            captured_graph_sizes(engine, self._graph_settings(settings), self.engine.device)
        if self.kv is None:
            return engine
        return replace(engine, num_gpu_blocks=self.kv.checked_blocks(self.memory_settings(settings, engine)))

    @property
    def on_gpu(self) -> bool:
        """Whether the engine is known to run on a GPU."""
        return self.cuda_graphs or self.engine.driver is not None

    def _check_block_size(self, engine: EngineConfig) -> None:
        """Raise InputError for blocks of which no attention kernel for GPUs reads any ("block_size not supported",
        vllm/v1/attention/backend.py); what the engine itself ran with, it can read."""
        size = engine.block_size
        if self.on_gpu and size % KERNEL_BLOCK and size != self.defaults.get("block_size"):
            raise InputError(f"block_size={size}: attention kernels for GPUs read multiples of {KERNEL_BLOCK} tokens")

    def ignored(self, settings: Mapping[str, Any]) -> list[str]:
        """Names of those settings that change neither the schedule nor the times nor the memory that are predicted.

        What the profile was made with, asked for as it is, is none of them.
        """
        settings = checked(settings)
        blocks = {"num_gpu_blocks_override"} if self.kv is None else PROFILED
        heeded = simulated_by(self.engine.version) | blocks | (GRAPH_SETTINGS if self.cuda_graphs else frozenset())
        heeded |= NOT_SIMULATED.keys()  # which are as they have to be
        heeded |= {"performance_mode"} if self.cuda_graphs and is_interactive(settings) else set()
        if self.source == CLOSED_FORM:  # was made with nothing, but may name an engine
            return [k for k, v in settings.items() if k not in heeded and getattr(self.engine, k, None) != v]
        return [k for k, v in settings.items() if k not in heeded and not is_as_made(self, k, v)]

    def engine_or_none(self, settings: Mapping[str, Any]) -> EngineConfig | None:
        """`engine_config`, or None where vLLM refuses the settings, as is told where they are run."""
        try:
            return self.engine_config(settings)
        except InputError:
            return None

    def check_given(self, settings: Mapping[str, Any]) -> None:
        """Raise InputError where vLLM refuses the defaults because of those among them that somebody gave: `settings`.

        Where it refuses them without these too, as for a model whose own context does not fit, nothing is raised: the
        profile serves with a lower max_model_len.
        """
        others = {name: value for name, value in self.defaults.items() if name not in settings}
        if replace(self, defaults=others).engine_or_none({}) is not None:
            self.engine_config({})

    def _kv_cache_error(self, settings: Mapping[str, Any]) -> float:
        engine = self.engine_or_none(settings)
        if self.kv is None or engine is None:
            return 0.0
        return self.kv.error_share(self.memory_settings(settings, engine))

    def memory_settings(self, settings: Mapping[str, Any], engine: EngineConfig) -> dict[str, Any]:
        """What the memory follows: `settings` over the defaults, and what `engine` made of them."""
        resolved = {
            "block_size": engine.block_size,
            "max_num_batched_tokens": engine.max_num_batched_tokens,
            "max_num_seqs": engine.max_num_seqs,
            "max_model_len": None if engine.max_model_len == UNLIMITED_MODEL_LEN else engine.max_model_len,
        }
        return {**self.defaults, **settings, **resolved}

    def _check_parallelism(self, settings: Mapping[str, Any]) -> None:
        """Raise InputError for another cut of the model than was profiled; a formula holds for any stages."""
        refuse_unsimulated(settings)
        for name, known in self.parallelism.items():
            asked = int(settings.get(name, known))
            if asked != known and not (self.source == CLOSED_FORM and name == "pipeline_parallel_size"):
                raise InputError(
                    f"{name}={asked}: profile {self.name} holds step times for {known}; use or measure a profile for "
                    f"{asked}"
                )

    @property
    def parallelism(self) -> dict[str, int]:
        """How the model is cut over GPUs."""
        return {name: getattr(self.engine, name) for name in PARALLELISM}

    @property
    def provenance(self) -> str:
        """One sentence on where the numbers come from, to be shown on every use."""
        kv = "" if self.kv is not None else f"; KV capacity is not modelled: {self.unmodelled_blocks}"
        return f"profile {self.name}: {PROVENANCE[self.source]}{kv}"

    @property
    def unmodelled_blocks(self) -> str:
        """How many KV blocks are simulated where nothing tells the memory."""
        if given := self.defaults.get("num_gpu_blocks_override"):
            return f"{given:,} blocks, as the profile's num_gpu_blocks_override says"
        recorded = f" ({self.recorded_blocks[0]})" if self.recorded_blocks else ""
        return f"{UNLIMITED_BLOCKS:,} blocks unless num_gpu_blocks_override is set{recorded}"

    @property
    def recorded_blocks(self) -> list[str]:
        """What step records tell of the KV blocks of their engine."""
        return [note for note in self.notes if note.startswith(RECORDED)]

    def describe(self) -> dict[str, Any]:
        """The profile's identity, as the `profile` key of JSON output has it."""
        facts = {name: getattr(self.engine, name) for name in EngineFacts.__slots__}
        return {"name": self.name, "source": self.source, "engine": facts}

    def trust(self, *settings: Mapping[str, Any], runs: Iterable[Mapping[str, float] | None] = ()) -> dict[str, Any]:
        """How far predictions may be believed, as the `trust` key of JSON output has it.

        `settings` are what was asked for; those whose effect the profile does not hold are named in `left_out`, and
        `not_represented` has a line on each, and on what else of a machine so set is not in the numbers. `runs` are the
        metrics of simulations (tuner/evaluate.py): of their shares the largest is told.
        """
        known, asked = [run for run in runs if run], [checked(one) for one in settings]
        return {
            "provenance": self.provenance,
            "expected_error": expected_error(self, max(map(self._kv_cache_error, settings or ({},))), known),
            "doubts": list(self.doubts),
            "step_time_error": {error.regime: error.as_dict() for error in self.step.held_out},
            **{name: largest_share(known, name) for name in SHARES},
            "not_represented": list(dict.fromkeys(line for one in asked for line in not_represented(self, one))),
            "left_out": list(dict.fromkeys(name for one in asked for name in unrepresented(self, one))),
            "kv_capacity": "not modelled" if self.kv is None else "modelled",
            "notes": [*self.notes, *filter(None, [version_note(self.engine.version)])],
        }


def _check_memory_share(settings: Mapping[str, Any]) -> None:
    """vllm/config/cache.py, CacheConfig.gpu_memory_utilization."""
    share = settings.get("gpu_memory_utilization")
    if share is not None and not 0 < share <= 1:
        raise InputError(f"gpu_memory_utilization={share}: must lie above 0 and be at most 1")


def refuse_unsimulated(settings: Mapping[str, Any]) -> None:
    """Raise InputError for what may only be 1: GPUs that would not be counted, and what vLLM refuses; for an engine
    that generates nothing; and for a performance_mode that vLLM does not have."""
    for name, mend in NOT_SIMULATED.items():
        if settings.get(name) not in (None, 1):
            raise InputError(f"{name}={settings[name]}: {mend}")
    for name, generating in GENERATING.items():
        if (value := settings.get(name)) not in generating:
            told = "such an engine generates no text for requests, which is not simulated"
            raise InputError(f"{name}={value}: {told}; leave it out")
    if (mode := settings.get("performance_mode") or PERFORMANCE_MODES[0]) not in PERFORMANCE_MODES:
        raise InputError(f"performance_mode={mode}: must be one of {', '.join(PERFORMANCE_MODES)}")


def linear_profile(
    base_s: float,
    prefill_token_s: float,
    decode_row_s: float,
    context_token_s: float,
    name: str = "linear",
    version: str | None = None,
) -> Profile:
    """A closed-form profile: base + P * prefill token + D * decode row + C * context token; no overhead, no KV limit.

    `version` is the vLLM whose rules schedule the steps.

    Raises InputError for a coefficient that is negative or above MOST_TERM_S, or when a step could take no time at all.
    """
    terms = {
        "base": base_s,
        "prefill-token": prefill_token_s,
        "decode-seq": decode_row_s,
        "context-token": context_token_s,
    }
    for term, seconds in terms.items():
        if not 0 <= seconds <= MOST_TERM_S:
            raise InputError(f"--{term}-ms {seconds * 1000:g}: must be a number from 0 to {MOST_TERM_S * 1000:.0f}")
    if base_s + min(prefill_token_s, decode_row_s) <= 0:
        raise InputError("a step would take no time: give --base-ms, or both --prefill-token-ms and --decode-seq-ms")
    step = FittedStepTime.linear(base_s, prefill_token_s, decode_row_s, context_token_s)
    return Profile(name=name, source=CLOSED_FORM, step=step, engine=EngineFacts(version=version))
