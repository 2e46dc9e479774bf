"""How much more the attention of decodes takes in a step that has a prefill too, by the layer times of one GPU.

    python benchmarks/accuracy/mixed_attention.py --data ../shared/measured/rtxpro6000-llama-3.1-8b

In such a step vLLM's FlashAttention backend serves all rows with one kernel. What the decodes add to it, over what they
take alone: profiler/silicon/omitted.py has the median. Kernel tables know each kind of row by itself only.
"""

import argparse
from pathlib import Path

import numpy as np
from layer_times import CHUNKS, CONTEXTS, DECODES, LayerTimes, read_layer_times
from tables import require, row

LEAST_DECODES, LEAST_CONTEXT, MOST_CONTEXT = 16, 128, 8192
"""Fewer or shorter ones cost next to nothing either way; longer ones are rare, and the table ends at 16384."""


def ratios(times: LayerTimes, decodes: int) -> np.ndarray:
    """(chunks, contexts): of chunks of new prompts."""
    contexts = np.flatnonzero((CONTEXTS >= LEAST_CONTEXT) & (CONTEXTS <= MOST_CONTEXT))
    place = int(np.searchsorted(DECODES, decodes))
    beside = times.attention_s[1:, 0, place, contexts] - times.attention_s[1:, 0, 0, :1]
    return beside / times.attention_s[0, 0, place, contexts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    times = read_layer_times(require(parser.parse_args().data))
    measured = [decodes for decodes in DECODES[:-1].tolist() if decodes >= LEAST_DECODES]  # the last is filled up
    print(row("decodes", *(f"chunk of {chunk}" for chunk in CHUNKS[1:]), "median"))
    print(row(*["---"] * (len(CHUNKS) + 1)))
    everything = []
    for decodes in measured:
        found = ratios(times, decodes)
        everything.append(found)
        print(row(decodes, *(f"{np.median(chunk):.2f}" for chunk in found), f"{np.median(found):.2f}"))
    low, middle, high = np.percentile(everything, (10, 50, 90))
    print(f"\nall: median {middle:.2f}, 10th to 90th percentile {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
