"""Where kernel tables cannot be right, by other tables or the GPU: the error seen on others tells nothing then."""

from dataclasses import dataclass

from .omitted import UNSPLIT_SMS
from .tables import KernelTables

COMPARED_TOKENS = (2, 8, 64, 256)
MOST_SLOWER = 1.25
"""Than with weights in bfloat16, which are more bytes, or on half as many GPUs. A GEMM of fp8_block takes at least
0.08 ms in the tables of an H100 and up to 0.7 in those of a GB300, whatever its size; experts in fp8 take three times
as long on an H200. TPOT of measured mixtures of which this is so is off by 72 % (median), and by 10 to 20 % of others:
benchmarks/accuracy/silicon_sample.py --experts."""
FEW, MORE = 1, (8, 64)
"""Decodes: so many more take no less time."""
MOST_FASTER = 1.3
"""Times that the layers of one decode may take those of more. In the tables of a B200 a GEMM in fp8 takes longer for
one token than for eight: TPOT of Llama-3.1-70B, 1.41 to 1.6 here on two to eight of them, is off by 14 to 20 %, and
where it is 1.25, on one, by 3 % (benchmarks/accuracy/silicon_sample.py)."""
HALVED_TOKENS = 2048
"""Of a prefill, whose layers take no longer on twice as many GPUs. The all-reduces in the tables of L40S are those of
one host: with four GPUs they take eight times as long as with two."""
LEAST_WEIGHTS_BYTES, MOST_WEIGHT_READS = 5e9, 2.1
"""Of the layers of a dense model on a single GPU, and times that it would take to read them once. It is 1.3 to 1.6 in
bfloat16, and 2.03 and 2.04 where TPOT is met to 3 and 6 %; 2.12 where it is off by 58 % (Llama-3.1-8B in fp8 on an
H200), and 2.2 and more where weights in blocks of FP8 gain nothing over bfloat16. Of a mixture it is
64 decodes, which between them go to most experts: `slotune profile import silicon` tells both times of those in doubt,
as of Nemotron-3-Super in FP8 on an H200."""
LEAST_MIXTURE_BYTES = 2e10
"""Of a mixture's layers. Kernels of a smaller one, such as gpt-oss-20b, are so short that they take longer than
reading the weights, without a fault."""
LONG_DECODES = 64, 100_000
"""Rows, and the context of each: reading the cache is all that such a step does."""
MOST_READS = 3.0
"""Times that it would take to read the cache once. In the tables of other models with latent attention it is 0.3 (where
it is sparse) to 1.4; 7.8 is put together from parts for the fp8 cache of DeepSeek-V3.1-NVFP4 on a B200, where the
package has no table of the whole block."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """What tables are held against; None or nothing where it is not known."""

    plain: tuple[KernelTables, ...]
    """The same model with weights in bfloat16, and a mixture with all but its experts in it: those would hide dense
    layers that are slow, and an H100 has no table of MiniMax-M2.5's and DeepSeek-V3's in bfloat16."""
    halved: KernelTables | None
    """The same model on half as many GPUs."""
    alone: KernelTables | None
    """The same model on one GPU."""
    layer_bytes: float | None
    """What the layers' weights take of it."""
    token_cache_bytes: float | None
    """What a token takes of a GPU's KV cache."""


def doubts(tables: KernelTables, known: Comparisons) -> list[str]:
    """A sentence for each."""
    found = [
        _slower_weights(tables, known.plain) if known.plain else None,
        _faster_batch(tables),
        _slower_together(tables, known.halved) if known.halved else None,
        _slow_layers(known.alone, known.layer_bytes) if known.alone and known.layer_bytes else None,
        _over_pcie(tables),
        _narrow_cache(tables),
        _slow_reads(tables, known.token_cache_bytes) if tables.is_latent and known.token_cache_bytes else None,
    ]
    return [sentence for sentence in found if sentence]


def fewer_graphs(largest: float, usual: float) -> list[str]:
    """A sentence where the largest CUDA graph is smaller than vLLM's own choice: steps beyond it wait for the host."""
    if largest >= usual:
        return []
    return [
        f"the largest CUDA graph has {largest:g} tokens, where vLLM itself captures up to {usual:g}: how long "
        "steps beyond it wait for the host is in no kernel table"
    ]


def _slower_weights(tables: KernelTables, plain: tuple[KernelTables, ...]) -> str | None:
    ratios = {
        (tokens, other): tables.told_dense_ms(tokens, True) / other.told_dense_ms(tokens, True)
        for tokens in COMPARED_TOKENS
        for other in plain
    }
    tokens, worst = max(ratios, key=ratios.__getitem__)
    if ratios[tokens, worst] <= MOST_SLOWER:
        return None
    asked_ms, plain_ms = (known.told_dense_ms(tokens, True) for known in (tables, worst))
    affected = {size for (size, _), ratio in ratios.items() if ratio > MOST_SLOWER}
    others = " or ".join(str(size) for size in COMPARED_TOKENS if size not in affected)
    kept = ", all but those of the experts" if worst.layout.dense_precision else ""
    return (
        f"in the kernel tables, the layers of a step of {tokens} tokens take {asked_ms:.3g} ms, but {plain_ms:.3g} "
        f"with weights in bfloat16{kept}, which are more bytes{f' (not so steps of {others})' if others else ''}"
    )


def _faster_batch(tables: KernelTables) -> str | None:
    one_ms, more = tables.told_dense_ms(FEW, True), min(MORE, key=lambda rows: tables.told_dense_ms(rows, True))
    more_ms = tables.told_dense_ms(more, True)
    if one_ms <= MOST_FASTER * more_ms:
        return None
    return (
        f"in the kernel tables, the layers of one decode take {one_ms:.3g} ms, but those of {more} only {more_ms:.3g}"
    )


def _slower_together(tables: KernelTables, halved: KernelTables) -> str | None:
    together_ms, halved_ms = (known.told_dense_ms(HALVED_TOKENS) for known in (tables, halved))
    if together_ms <= MOST_SLOWER * halved_ms:
        return None
    return (
        f"in the kernel tables, the layers of a prefill of {HALVED_TOKENS} tokens take {together_ms:.3g} ms on "
        f"{tables.layout.tp} GPUs, but {halved_ms:.3g} on {halved.layout.tp}"
    )


def _slow_layers(alone: KernelTables, layer_bytes: float) -> str | None:
    """One decode reads all dense layers; of a mixture it takes many decodes to read most experts, once."""
    rows, least_bytes = (max(MORE), LEAST_MIXTURE_BYTES) if alone.is_mixture else (FEW, LEAST_WEIGHTS_BYTES)
    read_ms = 1e3 * layer_bytes / alone.gpu["mem_bw"]
    layers_ms = alone.told_dense_ms(rows, True)
    if layer_bytes < least_bytes or layers_ms <= MOST_WEIGHT_READS * read_ms:
        return None
    decodes = "one decode" if rows == FEW else f"{rows} decodes"
    return (
        f"in the kernel tables, the layers of {decodes} take {layers_ms:.3g} ms on one GPU, but reading their weights "
        f"from memory only {read_ms:.3g}"
    )


def _over_pcie(tables: KernelTables) -> str | None:
    """All-reduces over PCIe were measured between GPUs of one host; between those of two sockets they take longer."""
    if tables.layout.tp == 1 or tables.node["intra_node_bw"] > tables.node["pcie_bw"]:
        return None
    return (
        f"{tables.layout.tp} GPUs without NVLink: how long their all-reduces take depends on how they are connected, "
        "which the kernel tables do not know"
    )


def _narrow_cache(tables: KernelTables) -> str | None:
    """FlashAttention 2 reads no fp8 cache, so that another kernel serves it on these GPUs, of whose mixed steps no time
    is known: MIXED_DECODES is that of FlashAttention 2 on an RTX PRO 6000."""
    if int(tables.gpu["sm_version"]) not in UNSPLIT_SMS or tables.arguments["kvcache_quant_mode"] == "bfloat16":
        return None
    return "with an fp8 cache on this GPU, how long decodes take beside a prefill is known of another kernel alone"


def _slow_reads(tables: KernelTables, token_cache_bytes: float) -> str | None:
    rows, context = LONG_DECODES
    read_ms = 1e3 * rows * context * token_cache_bytes / tables.gpu["mem_bw"]
    attention_ms = tables.decode_attention_ms(rows, context)
    if attention_ms <= MOST_READS * read_ms:
        return None
    return (
        f"in the kernel tables, the attention of {rows} decodes after {context} tokens takes {attention_ms:.3g} ms, "
        f"but reading their KV cache from memory only {read_ms:.3g}"
    )
