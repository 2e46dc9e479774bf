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
from tables import require


def make_folder(checkout: Path, example: str, out: Path) -> None:
    run = require(checkout / "bench" / "examples" / example)
    meta = json.loads(require(run / "vllm" / "meta.json").read_text())
    instances = json.loads(require(run / "config.json").read_text())["nodes"][0]["instances"]
    layer_times = checkout / "profiler" / "perf" / instances[0]["hardware"] / instances[0]["model_name"] / "bf16"
    shutil.copytree(run / "vllm", out / "vllm")
    shutil.copytree(require(layer_times), out / "profile")
    shutil.copy(run / "config.json", out)
    shutil.copy(run / "validation" / "summary.txt", out / PEER_ERRORS)
    workload = require(checkout / meta["dataset_path"]).read_bytes()
    (out / "workload.jsonl.gz").write_bytes(gzip.compress(workload))


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
