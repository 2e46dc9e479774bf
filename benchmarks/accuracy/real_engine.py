"""A measured profile against the engine that it was measured on: configurations x loads, interleaved and repeated.

    python benchmarks/accuracy/real_engine.py --vllm-python PY --out FOLDER                       # CPU: 45 minutes
    python benchmarks/accuracy/real_engine.py --vllm-python PY --out FOLDER --shape llama-3.1-8b --bench \\
        --budget 10m --engine load_format=dummy --engine dtype=bfloat16 --repeats 1 \\
        --configurations default "budget 512, 64 seats" "chunks of 512" --loads 0.3 0.55 0.8 \\
        --prompt-tokens 1155/1020/4142 --output-tokens 211/129/601                                # one GPU

Every round starts each configuration once and runs every load on it; the order rotates. A load is a share of what the
default serves when all requests are there at once, by the profile. Prints predicted, measured and error of mean, p50,
p90 and p99 of TTFT, TPOT and E2E and of the throughput, and how far the repeats lie apart. Beside the profile's
predictions stand those of a straight line through the profile's own samples (constant + a * prefill tokens + b * decode
rows), and both for steps that are longer by the factor that each run's own were: a machine that is slower now than when
it was profiled is no fault of a model.

Nothing is fitted on the runs. FOLDER keeps the profile (measured first, unless --profile names one) and every run as it
ends; killed, the same call goes on. --bench sends the load with `vllm bench serve` instead of slotune's own client, and
predicts what that sent.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from real_engine_report import predict, report
from real_engine_runs import Client, bench_client, keep, own_client, read_runs, run_path, warm_up

from slotune.cli import main as slotune
from slotune.profiler.engine.launch import Launch, find_vllm
from slotune.profiler.engine.server import running_server
from slotune.profiler.measurement.recording import StepTail
from slotune.profiler.profile import Profile
from slotune.profiler.profile_folder import load_profile
from slotune.profiler.surrogate.samples import read_samples
from slotune.profiler.surrogate.steps import samples_of
from slotune.traces.generate import make_trace, parse_lengths
from slotune.traces.lengths import Lengths
from slotune.traces.trace import Trace
from slotune.tuner.study.deployment import deployed

ON_CPU: dict[str, dict[str, Any]] = {
    "default": {},
    "budget 256": {"max_num_batched_tokens": 256},
    "budget 512, 16 seats": {"max_num_batched_tokens": 512, "max_num_seqs": 16},
    "6 seats": {"max_num_seqs": 6},
    "chunks of 128": {"long_prefill_token_threshold": 128},
    "66 blocks of 64": {"num_gpu_blocks_override": 66, "block_size": 64},
}
ON_GPU: dict[str, dict[str, Any]] = {
    "default": {},
    "budget 512, 64 seats": {"max_num_batched_tokens": 512, "max_num_seqs": 64},
    "chunks of 512": {"long_prefill_token_threshold": 512},
}
CONFIGURATIONS = ON_CPU | ON_GPU
SETTINGS = ("max_model_len=4096", "enforce_eager=true", "load_format=dummy", "dtype=float32")
"""For a model without weights, on a CPU: many emulate bfloat16, at a third of the speed."""
PROMPT_TOKENS, OUTPUT_TOKENS = "400/300/1200", "40/30/120"
LOADS = (0.3, 0.55)
FEWEST_REQUESTS = 40


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs share."""

    launch: Launch
    profile: Profile
    model: str
    traces: Mapping[float, Trace]
    """By load."""
    client: Client
    folder: Path

    def measure(self, name: str, number: int) -> None:
        """All loads on one configuration, in round `number`; what was measured before stays."""
        paths = {load: run_path(self.folder, name, load, number) for load in self.traces}
        if all(path.exists() for path in paths.values()):
            return
        print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
        settings = CONFIGURATIONS[name]
        logs = self.folder / f"engine-{paths[min(paths)].stem}"
        with running_server(self.launch, self.model, deployed(self.profile, settings), logs, record=True) as server:
            warm_up(server)
            assert server.steps_path is not None
            tail = StepTail(server.steps_path)
            tail.read()  # those of the warm-up
            for load, trace in self.traces.items():
                sent, metrics = self.client(server, trace, logs, seed=100 * number + round(100 * load))
                server.check()
                keep(paths[load], name, load, settings, sent, metrics, samples_of(tail.read()))


def main() -> int:
    asked = parsed()
    launch = find_vllm(asked.vllm_python)
    model = asked.model or made_model(asked.vllm_python, asked.shape, asked.out / "model")
    folder = asked.profile or asked.out / "profile"
    if not asked.profile and not (folder / "profile.json").exists():
        measure_profile(asked, model, folder)
    profile = load_profile(str(folder))
    lengths = parse_lengths(asked.prompt_tokens), parse_lengths(asked.output_tokens)
    traces = {load: trace_of(profile, lengths, load, asked.seconds) for load in asked.loads}
    client = bench_client(launch) if asked.bench else own_client
    bench = Bench(launch, profile, model, traces, client, asked.out / "runs")
    names = asked.configurations
    for number in range(asked.repeats):
        for place in range(len(names)):
            bench.measure(names[(place - number) % len(names)], number)
    report(profile, read_samples(folder / "steps.parquet"), read_runs(bench.folder))
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", required=True, help="an interpreter with vLLM")
    parser.add_argument("--out", required=True, type=Path, help="where everything is kept")
    parser.add_argument("--model", help="a model folder or a name on a hub (default: one without weights is made)")
    parser.add_argument("--shape", default="tiny", help="of the model that is made (benchmarks/make_model.py)")
    parser.add_argument("--engine", action="append", metavar="NAME=VALUE", help="settings (default: for a CPU)")
    parser.add_argument("--profile", type=Path, help="one that was measured before, of this engine and model")
    parser.add_argument("--budget", default="8m", help="for measuring the profile")
    parser.add_argument("--configurations", nargs="*", choices=list(CONFIGURATIONS), default=list(ON_CPU))
    parser.add_argument("--loads", type=float, nargs="*", default=LOADS)
    parser.add_argument("--prompt-tokens", default=PROMPT_TOKENS, help="mean/median/p99")
    parser.add_argument("--output-tokens", default=OUTPUT_TOKENS)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a load")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bench", action="store_true", help="send the load with `vllm bench serve`")
    return parser.parse_args()


def made_model(python: str, shape: str, folder: Path) -> str:
    """A model folder without weights."""
    if not (folder / "tokenizer.json").exists():
        make_model = Path(__file__).parents[1] / "make_model.py"
        subprocess.run([python, make_model, folder, "--shape", shape], check=True)
    return str(folder)


def measure_profile(asked: argparse.Namespace, model: str, folder: Path) -> None:
    settings = asked.engine or SETTINGS
    words = ["profile", "measure", "--model", model, "--vllm-python", asked.vllm_python, "--budget", asked.budget]
    code = slotune([*words, *(word for setting in settings for word in ("--engine", setting)), "--out", str(folder)])
    if code:
        sys.exit(code)


def trace_of(profile: Profile, lengths: tuple[Lengths, Lengths], load: float, seconds: float) -> Trace:
    """`seconds` of Poisson arrivals at `load` times what the default serves at most."""
    crowd = make_trace(200, 1.0, lengths, seed=1)
    crowd = replace(crowd, arrival_s=np.zeros(len(crowd)))
    rate = load * predict(profile, profile.timing(), {}, crowd)["request_throughput"]
    return make_trace(max(FEWEST_REQUESTS, round(seconds * rate)), rate, lengths, seed=1)


if __name__ == "__main__":
    sys.exit(main())
