"""Measured vLLM points of dense models at a steady concurrency, from kernel tables, beside the package's own estimate.

    python benchmarks/accuracy/silicon_sample.py [--systems h200_sxm b200_sxm] [--calibrate]

The points come with the package aiconfigurator-core (systems/silicon_sample.csv): mean TTFT and TPOT of Llama-3.1-70B
and 8B and Qwen3-32B at 4 to 128 requests in flight. What tables leave out (profiler/silicon_omitted.py) was calibrated
on the points of the H100 alone, by --calibrate; those of the H200 and B200 are the test. The package's own estimate is
its run_agg (backends/base_backend.py) with one whole prompt a mixed step, as its vLLM backend assumes; its constants
for vLLM's TTFT were calibrated by its authors on all these points, so it has seen them.

Assumed of the runs, whose commands the file does not hold: ten times as many requests as are in flight, sent at once.
The 70B points are InferenceMAX's, whose scripts are public: lengths even between 80 and 100 % of the nominal ones,
async scheduling, no prefix caching, 8192 tokens a step, an fp8 KV cache but on the H100. Of the others: fixed lengths,
vLLM 0.12's defaults.
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

from slotune.profiler import silicon
from slotune.profiler.profile import Profile
from slotune.profiler.silicon_omitted import OMITTED, Omitted
from slotune.simulator.metrics import summarise
from slotune.simulator.simulation import simulate
from slotune.traces.generate import plain
from slotune.traces.trace import Trace

F64 = npt.NDArray[np.float64]

MODELS = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "Qwen/Qwen3-32B": "Qwen/Qwen3-32B",
}
INFERENCEMAX = "2026-04-06.csv"
"""How the source of its points begins."""
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


def read_points(systems: list[str]) -> list[Point]:
    path = files("aiconfigurator_core").joinpath("systems/silicon_sample.csv")
    with path.open() as lines:
        rows = [
            r
            for r in csv.DictReader(lines)
            if (r["backend"], r["mode"]) == ("vllm", "agg") and r["model_path"] in MODELS and r["system"] in systems
        ]
    return [_point(r) for r in rows]


def _point(r: dict[str, str]) -> Point:
    public = INFERENCEMAX in r["silicon_data_source"]
    system, model, tp = r["system"], MODELS[r["model_path"]], int(r["tp_size"])
    cache = "fp8" if public and system != "h100_sxm" else "auto"
    group = Group(system, model, r["gemm_quant_mode"] or None, tp, public, cache)
    sizes = int(r["isl"]), int(r["osl"]), int(r["batch_size"])
    return Point(group, *sizes, public, float(r["silicon_ttft_ms"]), float(r["silicon_tpot_ms"]))


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
    }
    return silicon.import_silicon(
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

        config = config_builders.build_model_config(group.tp, 1, 1, 1, 1, gemm_quant_mode=group.precision)
        version = perf_database.get_version_slots(group.system, "vllm")["current"]
        self._model = models.get_model(group.model, config, "vllm")
        self._database = perf_database.get_database(group.system, "vllm", version)
        self._backend = backends.factory.get_backend("vllm")

    def __call__(self, point: Point) -> tuple[float, float]:
        from aiconfigurator_core.sdk.config import RuntimeConfig

        runtime = RuntimeConfig(batch_size=point.concurrency, isl=point.isl, osl=point.osl)
        tokens = min(point.isl, TOKENS_A_STEP)
        found = self._backend.run_agg(self._model, self._database, runtime, ctx_tokens=tokens).get_result_dict()
        return float(found["ttft"]), float(found["tpot"])


Predicted = list[tuple[Point, tuple[float, float], tuple[float, float]]]
"""A point, slotune's prediction and the package's: (TTFT, TPOT)."""


def predict_all(points: list[Point], seed: int, show: bool) -> Predicted:
    by_group: dict[Group, list[Point]] = defaultdict(list)
    for point in points:
        by_group[point.group].append(point)
    found: Predicted = []
    for group, members in by_group.items():
        profile, own = profile_of(group, OMITTED), OwnEstimate(group)
        found += [(point, predict(profile, point, seed), own(point)) for point in members]
        errors = summary(found[-len(members) :])
        print(
            line(group.system, group.model, group.precision or "bfloat16", group.tp, len(members), *errors), flush=True
        )
        if show:
            for point, (ttft, tpot), _ in found[-len(members) :]:
                figures = f"{ttft:.0f}", f"{point.ttft_ms:.0f}", f"{tpot:.2f}", f"{point.tpot_ms:.2f}"
                print("   ", point.isl, point.osl, point.concurrency, *figures)
    return found


def summary(found: Predicted) -> list[str]:
    """Median absolute errors in per cent: TTFT and TPOT, slotune's then the package's, with slotune's median bias."""
    measured = np.array([(point.ttft_ms, point.tpot_ms) for point, _, _ in found])
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
    parser.add_argument("--points", action="store_true", help="also print every point")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    silicon.SAMPLED_STEPS = asked.steps
    if asked.calibrate:
        from silicon_calibration import calibrate

        print(calibrate(read_points(list(CALIBRATED_ON))))
        return
    print("Median error %, in brackets its sign: the median of predicted / measured - 1\n")
    print(f"{line(*HEADS)}\n{line(*['---'] * len(HEADS))}")
    found = predict_all(read_points(asked.systems), asked.seed, asked.points)
    for name, inside in (("calibrated on", True), ("held out", False)):
        part = [entry for entry in found if (entry[0].group.system in CALIBRATED_ON) == inside]
        if part:
            print(line(f"all, {name}", "", "", "", len(part), *summary(part)))


if __name__ == "__main__":
    main()
