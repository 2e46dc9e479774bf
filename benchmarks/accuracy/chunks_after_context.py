"""The attention of a chunk after a long context, by the layer times of one GPU, beside kernel tables for it.

    python benchmarks/accuracy/chunks_after_context.py --data ../shared/measured/rtxpro6000-llama-3.1-8b

The tables hold whole prompts only; of a chunk the package takes a share of a prompt's time. Needs slotune[silicon].
Columns: microseconds a layer, measured, by the package's share, and as imported (profiler/silicon/tables.py).
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from layer_times import CHUNKS, CONTEXTS, SHAPES, read_layer_times
from tables import require, row

from slotune.profiler.silicon.layout import Layout
from slotune.profiler.silicon.tables import KernelTables

SHORT, LONG = 256, 2048
"""A chunk of at most so many tokens, after a context of at least so many."""
GROUPS = {
    f"chunks up to {SHORT} after {LONG} or more": lambda chunk, context: chunk <= SHORT and context >= LONG,
    f"chunks up to {SHORT} after {SHORT} to {LONG - 1}": lambda chunk, context: chunk <= SHORT <= context < LONG,
    f"longer ones after {LONG} or more": lambda chunk, context: chunk > SHORT and context >= LONG,
    f"longer ones after {SHORT} to {LONG - 1}": lambda chunk, context: chunk > SHORT <= context < LONG,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    measured_s = read_layer_times(require(parser.parse_args().data)).attention_s[:, :, 0, 0]
    logging.disable(logging.WARNING)
    tables = KernelTables("rtx_pro_6000_server", "meta-llama/Meta-Llama-3.1-8B", Layout())
    layer_us = 1e3 / SHAPES["Llama-3.1-8B"].layers
    print(row("chunk", "context", "measured", "package", "imported"))
    print(row(*["---"] * 5))
    known = []
    for (i, chunk), (j, context) in ((a, b) for a in enumerate(CHUNKS) for b in enumerate(CONTEXTS)):
        if not (chunk and context >= SHORT and chunk + context <= CONTEXTS[-1]):
            continue
        told_us = [layer_us * ms(1, int(chunk), int(context)) for ms in (tables.share_ms, tables.prefill_attention_ms)]
        known.append((chunk, context, 1e6 * measured_s[i, j], *told_us))
        print(row(*(f"{value:.0f}" for value in known[-1])))
    print("\n" + row("", "points", "package", "imported"))
    print(row(*["---"] * 4))
    for name, holds in GROUPS.items():
        _, _, measured, *told = np.array([each for each in known if holds(*each[:2])]).T
        print(row(name, len(measured), *(f"{100 * np.median(one / measured - 1):+.0f} %" for one in told)))


if __name__ == "__main__":
    main()
