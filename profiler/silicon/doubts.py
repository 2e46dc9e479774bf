"""Where kernel tables cannot be right, by other tables or the GPU: the error seen on others tells nothing then."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tables import KernelTables

COMPARED_TOKENS = (2, 8, 64, 256)
MOST_SLOWER = 1.25
"""Than with weights in bfloat16, which are more bytes. A GEMM of fp8_block takes at least 0.08 ms in the tables of an
H100 and up to 0.7 in those of a GB300, whatever its size; experts in fp8 take three times as long on an H200. TPOT of
measured mixtures of which this is so is off by 87 % (median), and by 10 to 20 % of others:
benchmarks/accuracy/silicon_sample.py --experts."""
LONG_DECODES = 64, 100_000
"""Rows, and the context of each: reading the cache is all that such a step does."""
MOST_READS = 3.0
"""Times that it would take to read the cache once. In the tables of other models with latent attention it is 0.3 (where
it is sparse) to 1.4; 7.8 is put together from parts for the fp8 cache of DeepSeek-V3.1-NVFP4 on a B200, where the
package has no table of the whole block."""


def doubts(tables: "KernelTables", plain: "KernelTables | None", token_cache_bytes: float | None) -> Iterator[str]:
    """A sentence for each; `plain` are the tables of the same model with weights in bfloat16, where there are any, and
    `token_cache_bytes` what a token takes of a GPU's KV cache, where that is known."""
    if plain is not None and (sentence := _slower_weights(tables, plain)):
        yield sentence
    if tables.is_latent and token_cache_bytes and (sentence := _slow_reads(tables, token_cache_bytes)):
        yield sentence


def _slower_weights(tables: "KernelTables", plain: "KernelTables") -> str | None:
    def slower(tokens: int) -> float:
        return tables.dense_ms(tokens, True) / plain.dense_ms(tokens, True)

    tokens = max(COMPARED_TOKENS, key=slower)
    if slower(tokens) <= MOST_SLOWER:
        return None
    asked_ms, plain_ms = (known.dense_ms(tokens, True) for known in (tables, plain))
    return (
        f"in the kernel tables, the layers of a step of {tokens} tokens take {asked_ms:.3g} ms, but {plain_ms:.3g} "
        "with weights in bfloat16, which are more bytes"
    )


def _slow_reads(tables: "KernelTables", token_cache_bytes: float) -> str | None:
    rows, context = LONG_DECODES
    read_ms = 1e3 * rows * context * token_cache_bytes / tables.gpu["mem_bw"]
    attention_ms = tables.decode_attention_ms(rows, context)
    if attention_ms <= MOST_READS * read_ms:
        return None
    return (
        f"in the kernel tables, the attention of {rows} decodes after {context} tokens takes {attention_ms:.3g} ms, "
        f"but reading their KV cache from memory only {read_ms:.3g}"
    )
