"""The engine of a run that was measured beside layer times: by its vllm/meta.json and LLMServingSim's config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from layer_times import CHUNKS, DECODES, Link, Shape, shape_of
from tables import require

from slotune.arrays import F64
from slotune.profiler.graph_sizes import captured_graph_sizes
from slotune.simulator.engine_config import SIMULATED, EngineConfig

GB, GIB = 1e9, 1 << 30
BLOCK_SIZE = 16
"""Tokens; vLLM's default."""
IN_16_BITS = ("auto", "bfloat16", "float16")
AS_MEASURED = {"dtype": IN_16_BITS, "kv_cache_dtype": IN_16_BITS, "quantization": (), "speculative_config": ()}
"""Settings that would change the kernels, with the values beside which the layer times hold."""


@dataclass(frozen=True, slots=True)
class MeasuredEngine:
    """What was run."""

    engine: EngineConfig
    graph_sizes: F64
    link: Link | None
    """Where config.json describes one."""
    blocks_are_estimated: bool
    """Whether the number of KV blocks was not recorded."""


def read_engine(folder: Path, num_gpu_blocks: int | None = None) -> MeasuredEngine:
    """The engine of the run in `folder`; `num_gpu_blocks` where the folder does not tell the KV cache.

    What its arguments leave out is vLLM's default. Ends the command for what layer times cannot put together.
    """
    meta = json.loads(require(folder / "vllm" / "meta.json").read_text())
    measured = yaml.safe_load(require(folder / "profile" / "meta.yaml").read_text())["model"]
    if Path(measured).name != Path(meta["model"]).name:
        raise SystemExit(f"{folder}: the run is of {meta['model']}, the layer times of {measured}")
    cluster = json.loads(require(folder / "config.json").read_text())
    asked = {name: value for name, value in meta["engine_kwargs"].items() if value is not None}
    resolved = meta.get("resolved_config") or {}
    asked |= {k: v for k, v in resolved.get("scheduler_config", {}).items() if k == "async_scheduling"}
    _refuse(folder, asked)
    recorded = (
        num_gpu_blocks or asked.get("num_gpu_blocks_override") or (meta.get("kv_cache") or {}).get("num_gpu_blocks")
    )
    block_size = asked.get("block_size", BLOCK_SIZE)
    engine = EngineConfig(
        num_gpu_blocks=recorded or _estimated_blocks(cluster, asked, shape_of(meta["model"]), block_size),
        vllm_version=meta["vllm_version"],
        **{name: value for name, value in asked.items() if name in SIMULATED},
    )
    sizes = resolved.get("compilation_config", {}).get("cudagraph_capture_sizes")
    graph_sizes = captured_graph_sizes(engine, asked) if sizes is None else np.array(sizes, np.float64)
    return MeasuredEngine(engine, graph_sizes, _link(cluster), not recorded)


def _refuse(folder: Path, asked: dict[str, Any]) -> None:
    where = folder / "vllm" / "meta.json"
    for name in ("max_num_batched_tokens", "max_num_seqs"):
        if name not in asked:
            raise SystemExit(f"{where}: engine_kwargs has no {name}, whose default depends on the GPU")
    limits = {"max_num_batched_tokens": CHUNKS[-1], "max_num_seqs": DECODES[-1]}
    limits |= {"data_parallel_size": 1, "pipeline_parallel_size": 1}
    for name, most in limits.items():
        if asked.get(name, 1) > most:
            raise SystemExit(f"{where}: {name}={asked[name]}: the layer times go up to {most}")
    for name, values in AS_MEASURED.items():
        if name in asked and asked[name] not in values:
            raise SystemExit(f"{where}: {name}={asked[name]}: the layer times are of a plain model in 16 bits")
    if asked.get("enable_expert_parallel"):
        raise SystemExit(f"{where}: enable_expert_parallel: there are no layer times of experts")


def _estimated_blocks(cluster: dict[str, Any], asked: dict[str, Any], shape: Shape, block_size: int) -> int:
    """What the weights leave of the share of the GPUs' memory. mem_size is GiB: LLMServingSim's config of an RTX 4090
    gives so the 2,588 blocks that vLLM found, which its share was chosen to give."""
    instance = cluster["nodes"][0]["instances"][0]
    memory = instance["npu_mem"]
    if "mem_size" not in memory:
        raise SystemExit("the KV cache is neither in vllm/meta.json nor in config.json: give --num-gpu-blocks")
    share = asked.get("gpu_memory_utilization", memory["mem_util"])
    size = memory["mem_size"] * GIB * share * instance["num_npus"] - shape.weights_gb * GB
    return int(size / (block_size * shape.kv_bytes))


def _link(cluster: dict[str, Any]) -> Link | None:
    if "link_bw" not in cluster:
        return None
    return Link(cluster["link_bw"] * GB, cluster["link_latency"] / GB)
