"""How many KV blocks a recorded engine has and how large they are, by what its steps leave free."""

from collections import Counter

from ..simulator.steps import StepRecord

BLOCK_SIZES = (8, 16, 32, 64, 128, 256)
"""Of attention backends, in vLLM (vllm/v1/attention/backends): powers of two. Those that a user may give besides, and
that vLLM sets for models with Mamba layers, are any multiple of 16."""
FEWEST_AGREE = 10
"""Steps that must agree: with too few, a wrong size fits as well."""


class RecordedBlocks:
    """Looks at step records one by one.

    A step of one row tells the number, unless others hold blocks too: what is free, what the row's request holds, and
    vLLM's null block. Of several rows some may share blocks. Sizes that are wrong give a number that changes with the
    request's length, so the largest number that they give is that of few steps.
    """

    def __init__(self, said: int | None = None) -> None:
        """`said` is the block size that was said of the engine, where one was."""
        sizes = {*BLOCK_SIZES, said} if said else BLOCK_SIZES
        self._told: dict[int, Counter[int]] = {size: Counter() for size in sorted(sizes)}

    def add(self, record: StepRecord) -> None:
        """Take in a step."""
        if record.free_blocks < 0 or len(record.rows) != 1:
            return
        _, tokens, context = record.rows[0]
        for size, told in self._told.items():
            held = -(-(tokens + context) // size)
            told[record.free_blocks + held + 1] += 1

    def notes(self, block_size: int) -> tuple[str, ...]:
        """What a user of the profile ought to know, `block_size` being what was said of the engine."""
        agreeing = {size: told[max(told)] for size, told in self._told.items() if told}
        if not agreeing or max(agreeing.values()) < FEWEST_AGREE:
            return ()
        size = max(agreeing, key=lambda one: (agreeing[one], one == block_size))
        blocks = max(self._told[size])
        if size == block_size:
            return (f"the recorded engine had {blocks:,} KV blocks: num_gpu_blocks_override={blocks} simulates them",)
        return (
            f"the records are of {blocks:,} KV blocks of {size} tokens, not of {block_size}: give --engine "
            f"block_size={size} and num_gpu_blocks_override={blocks}",
        )
