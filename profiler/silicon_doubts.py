"""Where kernel tables cannot be right, as they contradict one another: the error seen on others tells nothing then."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .silicon import KernelTables

COMPARED_TOKENS = (2, 8, 64, 256)
MOST_SLOWER = 1.25
"""Than with weights in bfloat16, which are more bytes. A GEMM of fp8_block takes at least 0.08 ms in the tables of an
H100 and up to 0.7 in those of a GB300, whatever its size; experts in fp8 take three times as long on an H200."""


def doubts(tables: "KernelTables", plain: "KernelTables | None") -> Iterator[str]:
    """A sentence for each; `plain` are the tables of the same model with weights in bfloat16, where there are any."""
    if plain is not None and (sentence := _slower_weights(tables, plain)):
        yield sentence


def _slower_weights(tables: "KernelTables", plain: "KernelTables") -> str | None:
    def slower(tokens: int) -> float:
        return tables.dense_ms(tokens, True) / plain.dense_ms(tokens, True)

    tokens = max(COMPARED_TOKENS, key=slower)
    if slower(tokens) <= MOST_SLOWER:
        return None
    asked_ms, plain_ms = (known.dense_ms(tokens, True) for known in (tables, plain))
    return (
        f"the layers of a step of {tokens} tokens take {asked_ms:.3g} ms in the kernel tables, and {plain_ms:.3g} with "
        "weights in bfloat16, which are more bytes"
    )
