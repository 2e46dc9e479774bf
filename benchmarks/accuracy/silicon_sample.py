"""Measured vLLM points at a steady concurrency, from kernel tables, beside the package's own estimate.

    python benchmarks/accuracy/silicon_sample.py [--systems h200_sxm b200_sxm] [--calibrate | --experts]

The points come with the package aiconfigurator-core (systems/silicon_sample.csv): mean TTFT and TPOT of Llama-3.1-70B
and 8B and Qwen3-32B at 4 to 128 requests in flight. What tables leave out (profiler/silicon/omitted.py) was calibrated
on the points of the H100 alone, by --calibrate; those of the H200 and B200 are the test. The package's own estimate is
its run_agg (backends/base_backend.py) with one whole prompt a mixed step, as its vLLM backend assumes; its constants
for vLLM's TTFT were calibrated by its authors on all these points, so it has seen them.

--experts: the points of mixtures of experts in place of those of dense models, all of them held out: MiniMax-M2.5,
Kimi-K2.5 (latent attention), gpt-oss-120b (layers of several kinds) and Qwen3-235B, without data parallelism.

Assumed of the runs, whose commands the file does not hold: ten times as many requests as are in flight, sent at once.
The 70B points are InferenceMAX's, whose scripts are public: lengths even between 80 and 100 % of the nominal ones,
async scheduling, no prefix caching, 8192 tokens a step, an fp8 KV cache but on the H100. So are those of mixtures, but
for Qwen3-235B; of them gpt-oss on a B200 has the fp8 cache, and the others the checkpoint's. Of the others: fixed
lengths, vLLM 0.12's defaults.
"""

import argparse
import csv
from collections import defaultdict
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from tables import row as line

from slotune.errors import InputError
from slotune.profiler.profile import Profile
from slotune.profiler.silicon import silicon_profile
from slotune.profiler.silicon.omitted import OMITTED, Omitted
from slotune.simulator.metrics import summarise
from slotune.simulator.simulation import simulate
from slotune.traces.generate import plain
from slotune.traces.trace import Trace

MODELS = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "Qwen/Qwen3-32B": "Qwen/Qwen3-32B",
}
EXPERTS = {
    ("MiniMaxAI/MiniMax-M2.5", "fp8"): "MiniMaxAI/MiniMax-M2.5",
    ("MiniMaxAI/MiniMax-M2.5", "fp4"): "nvidia/MiniMax-M2.5-NVFP4",
    ("moonshotai/Kimi-K2.5", "int4"): "moonshotai/Kimi-K2.5",
    ("moonshotai/Kimi-K2.5", "fp4"): "nvidia/Kimi-K2.5-NVFP4",
    ("openai/gpt-oss-120b", "fp4"): "openai/gpt-oss-120b",
    ("Qwen/Qwen3-235B-A22B-FP8", "fp8"): "Qwen/Qwen3-235B-A22B-FP8",
}
"""The checkpoint that was served, by the file's model and precision."""
INFERENCEMAX = "2026-04-06.csv", "2026-03-25.csv", "db-dump"
"""What the sources of its points are called."""
COPIES = "kimi-k2.5-gap-analysis"
"""A source whose points are others', rounded."""
SHORTEST = 0.8
"""InferenceMAX's --random-range-ratio."""
TURNS = 10
"""Requests for each place in flight."""
TOKENS_A_STEP = 8192
CALIBRATED_ON = ("h100_sxm",)


@dataclass(frozen=True, slots=True)
class Group:
    """What one profile serves."""

    system: str
    model: str
    precision: str | None
    tp: int
    async_scheduling: bool
    kv_cache_dtype: str
    expert_parallel: bool = False

    @property
    def gpus(self) -> str:
        return f"{self.tp}, EP" if self.expert_parallel else str(self.tp)


@dataclass(frozen=True, slots=True)
class Point:
    """A measured point; milliseconds."""

    group: Group
    isl: int
    osl: int
    concurrency: int
    spread: bool
    """Lengths vary, as InferenceMAX's do."""
    ttft_ms: float
    tpot_ms: float


def read_points(systems: list[str], experts: bool = False) -> list[Point]:
    """A point that stands there twice is one."""
    path = files("aiconfigurator_core").joinpath("systems/silicon_sample.csv")
    with path.open() as lines:
        rows = [r for r in csv.DictReader(lines) if (r["backend"], r["mode"]) == ("vllm", "agg")]
    group_of = _group_of_experts if experts else _dense_group
    known = [(r, group_of(r)) for r in rows if r["system"] in systems]
    return list(dict.fromkeys(_point(r, group) for r, group in known if group is not None))


def _is_public(r: dict[str, str]) -> bool:
    return any(name in r["silicon_data_source"] for name in INFERENCEMAX)


def _dense_group(r: dict[str, str]) -> Group | None:
    if r["model_path"] not in MODELS:
        return None
    public, system, model = _is_public(r), r["system"], MODELS[r["model_path"]]
    cache = "fp8" if public and system != "h100_sxm" else "auto"
    return Group(system, model, r["gemm_quant_mode"] or None, int(r["tp_size"]), public, cache)


def _group_of_experts(r: dict[str, str]) -> Group | None:
    """None for other models, for data parallelism (a GPU more for experts than for the rest), and for copies."""
    model, tp, cut, spread = EXPERTS.get((r["model_path"], r["precision"])), r["tp_size"], *_experts_cut(r)
    if model is None or cut * spread != int(tp) or COPIES in r["silicon_data_source"]:
        return None
    cache = "fp8" if (r["system"], model) == ("b200_sxm", "openai/gpt-oss-120b") else "auto"
    return Group(r["system"], model, None, int(tp), _is_public(r), cache, spread > 1)


def _experts_cut(r: dict[str, str]) -> tuple[int, int]:
    return int(r["moe_tp_size"]), int(r["moe_ep_size"])


def _point(r: dict[str, str], group: Group) -> Point:
    sizes = int(r["isl"]), int(r["osl"]), int(r["batch_size"])
    return Point(group, *sizes, _is_public(r), float(r["silicon_ttft_ms"]), float(r["silicon_tpot_ms"]))


def workload(point: Point, seed: int) -> Trace:
    count, rng = TURNS * point.concurrency, np.random.default_rng(seed)

    def lengths(nominal: int) -> npt.NDArray[np.int32]:
        least = int(SHORTEST * nominal) if point.spread else nominal
        return rng.integers(least, nominal + 1, count).astype(np.int32)

    return plain(np.zeros(count), lengths(point.isl), lengths(point.osl))


def profile_of(group: Group, omitted: Omitted) -> Profile:
    settings: dict[str, Any] = {
        "async_scheduling": group.async_scheduling,
        "max_num_batched_tokens": TOKENS_A_STEP,
        "kv_cache_dtype": group.kv_cache_dtype,
        "enable_expert_parallel": group.expert_parallel,
    }
    return silicon_profile.import_silicon(
        group.system, group.model, group.tp, "p", precision=group.precision, settings=settings, omitted=omitted
    )


def predict(profile: Profile, point: Point, seed: int) -> tuple[float, float]:
    """Mean TTFT and mean TPOT, milliseconds."""
    settings: dict[str, Any] = {"enable_prefix_caching": False, "gpu_memory_utilization": 0.9}
    settings["max_model_len"] = point.isl + point.osl + 200
    if point.spread:
        settings["max_num_seqs"] = point.concurrency
    engine, timing = profile.engine_config(settings), profile.timing(settings)
    result = simulate(workload(point, seed), engine, timing, max_concurrency=point.concurrency)
    metrics = summarise(result.requests, result.gaps)
    return metrics["mean_ttft_ms"], metrics["mean_tpot_ms"]


class OwnEstimate:
    """What the package itself says of a point."""

    def __init__(self, group: Group) -> None:
        from aiconfigurator_core.sdk import backends, config_builders, models, perf_database

        cut, spread = (1, group.tp) if group.expert_parallel else (group.tp, 1)
        config = config_builders.build_model_config(group.tp, 1, 1, cut, spread, gemm_quant_mode=group.precision)
        slots: Any = perf_database.get_version_slots(group.system, "vllm")
        self._model = models.get_model(group.model, config, "vllm")
        self._database: Any = perf_database.get_database(group.system, "vllm", slots["current"])
        self._backend = backends.factory.get_backend("vllm")

    def __call__(self, point: Point) -> tuple[float, float]:
        from aiconfigurator_core.sdk.config import RuntimeConfig

        runtime = RuntimeConfig(batch_size=point.concurrency, isl=point.isl, osl=point.osl)
        tokens = min(point.isl, TOKENS_A_STEP)
        found: Any = self._backend.run_agg(self._model, self._database, runtime, ctx_tokens=tokens).get_result_dict()
        return float(found["ttft"]), float(found["tpot"])


Predicted = list[tuple[Point, tuple[float, float], tuple[float, float], str]]
"""A point, slotune's prediction and the package's: (TTFT, TPOT); and its kind."""


def predict_all(points: list[Point], seed: int, show: bool) -> Predicted:
    by_group: dict[Group, list[Point]] = defaultdict(list)
    for point in points:
        by_group[point.group].append(point)
    found: Predicted = []
    for group, members in by_group.items():
        try:
            profile, own = profile_of(group, OMITTED), OwnEstimate(group)
        except InputError as error:
            print(line(group.system, group.model, "", group.gpus, len(members), error))
            continue
        kind = kind_of(group, profile)
        found += [(point, predict(profile, point, seed), own(point), kind) for point in members]
        errors = summary(found[-len(members) :])
        print(line(group.system, group.model, group.precision or "own", group.gpus, len(members), *errors), flush=True)
        if show:
            for point, (ttft, tpot), _, _ in found[-len(members) :]:
                figures = f"{ttft:.0f}", f"{point.ttft_ms:.0f}", f"{tpot:.2f}", f"{point.tpot_ms:.2f}"
                print("   ", point.isl, point.osl, point.concurrency, *figures)
    return found


def kind_of(group: Group, profile: Profile) -> str:
    if profile.doubts:
        return "tables in doubt"
    if "experts" in profile.model_parts:
        return "latent attention" if "latent attention" in profile.model_parts else "other mixtures"
    return "calibrated on" if group.system in CALIBRATED_ON else "held out"


def summary(found: Predicted) -> list[str]:
    """Median absolute errors in per cent: TTFT and TPOT, slotune's then the package's, with slotune's median bias."""
    measured = np.array([(point.ttft_ms, point.tpot_ms) for point, *_ in found])
    ours, theirs = (np.array([entry[k] for entry in found]) / measured - 1 for k in (1, 2))
    cells = []
    for metric in (0, 1):
        mine, bias = np.median(np.abs(ours[:, metric])), np.median(ours[:, metric])
        cells += [f"{100 * mine:.1f} ({100 * bias:+.1f})", f"{100 * np.median(np.abs(theirs[:, metric])):.1f}"]
    return cells


HEADS = ("system", "model", "precision", "GPUs", "points", "TTFT", "its own", "TPOT", "its own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="*", default=["h100_sxm", "h200_sxm", "b200_sxm"])
    parser.add_argument("--steps", type=int, default=1 << 12, help="sampled steps a profile, a power of two")
    parser.add_argument("--calibrate", action="store_true", help="find what tables leave out, on the H100's points")
    parser.add_argument("--experts", action="store_true", help="mixtures of experts in place of dense models")
    parser.add_argument("--points", action="store_true", help="also print every point")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    silicon_profile.SAMPLED_STEPS = asked.steps
    if asked.calibrate:
        from silicon_calibration import calibrate

        print(calibrate(read_points(list(CALIBRATED_ON))))
        return
    print("Median error %, in brackets its sign: the median of predicted / measured - 1\n")
    print(f"{line(*HEADS)}\n{line(*['---'] * len(HEADS))}")
    found = predict_all(read_points(asked.systems, asked.experts), asked.seed, asked.points)
    for kind in dict.fromkeys(entry[-1] for entry in found):
        part = [entry for entry in found if entry[-1] == kind]
        print(line(f"all, {kind}", "", "", "", len(part), *summary(part)))


if __name__ == "__main__":
    main()
