"""A run in LLMServingSim's repository, with its GPU's layer times, as a folder that rtxpro6000.py reads.

    git clone https://github.com/casys-kaist/LLMServingSim && git -C LLMServingSim checkout 5daddb21
    python benchmarks/accuracy/llmservingsim_folder.py --checkout LLMServingSim --example RTXPRO6000/Qwen3-32B --out F
    python benchmarks/accuracy/rtxpro6000.py --data F

An example is a folder of bench/examples there: the run's engine arguments and requests. Its workload and layer times
lie elsewhere in that repository; meta.json and config.json name them.
"""

import argparse
import gzip
import json
import shutil
import sys
from pathlib import Path

from rtxpro6000 import PEER_ERRORS


def make_folder(checkout: Path, example: str, out: Path) -> None:
    """Ends the command where something is not in the checkout, before anything is written."""
    run = checkout / "bench" / "examples" / example
    cluster, meta, summary = run / "config.json", run / "vllm" / "meta.json", run / "validation" / "summary.txt"
    _require(cluster, meta, summary)
    instance = json.loads(cluster.read_text())["nodes"][0]["instances"][0]
    layer_times = checkout / "profiler" / "perf" / instance["hardware"] / instance["model_name"] / "bf16"
    workload = checkout / json.loads(meta.read_text())["dataset_path"]
    _require(layer_times, workload)
    shutil.copytree(run / "vllm", out / "vllm")
    shutil.copytree(layer_times, out / "profile")
    shutil.copy(cluster, out)
    shutil.copy(summary, out / PEER_ERRORS)
    (out / "workload.jsonl.gz").write_bytes(gzip.compress(workload.read_bytes()))


def _require(*paths: Path) -> None:
    for path in paths:
        if not path.exists():
            sys.exit(f"{path}: not in that checkout")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--example", required=True, metavar="GPU/MODEL")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.out.exists():
        sys.exit(f"{asked.out}: there already")
    make_folder(asked.checkout, asked.example, asked.out)


if __name__ == "__main__":
    main()
