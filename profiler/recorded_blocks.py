"""How many KV blocks a recorded engine has and how large they are, by what its steps leave free."""

from collections import defaultdict

from ..simulator.steps import StepRecord

RECORDED = "the recorded engine had"
BLOCK_SIZES = (8, 16, 32, 64, 128, 256)
"""Of attention backends, in vLLM (vllm/v1/attention/backends): powers of two. Those that a user may give besides, and
that vLLM sets for models with Mamba layers, are any multiple of 16."""
FEWEST_AGREE = 10
"""Steps of different lengths that must agree: with too few, a wrong size fits as well."""
LEAST_AGREE = 0.5
"""Of the lengths of all steps of one row: requests that hold blocks beside the row are few where it can be told."""


class RecordedBlocks:
    """Looks at step records one by one.

    A step of one row tells the number, unless others hold blocks too: what is free, what the row's request holds, and
    vLLM's null block. Of several rows some may share blocks. Sizes that are wrong give a number that changes with the
    request's length, so the largest number that they give is that of few steps.
    """

    def __init__(self, said: int | None = None) -> None:
        """`said` is the block size that was said of the engine, where one was."""
        sizes = {*BLOCK_SIZES, said} if said else BLOCK_SIZES
        self._told: dict[int, dict[int, set[int]]] = {size: defaultdict(set) for size in sorted(sizes)}
        self._lengths: set[int] = set()

    def add(self, record: StepRecord) -> None:
        """Take in a step."""
        if record.free_blocks < 0 or len(record.rows) != 1:
            return
        _, tokens, context = record.rows[0]
        length = tokens + context
        self._lengths.add(length)
        for size, told in self._told.items():
            told[record.free_blocks - (-length // size) + 1].add(length)

    def notes(self, block_size: int) -> tuple[str, ...]:
        """What a user of the profile ought to know, `block_size` being what was said of the engine."""
        agreeing = {size: len(told[max(told)]) for size, told in self._told.items() if told}
        most = max(agreeing.values(), default=0)
        likely = [size for size, agree in agreeing.items() if agree == most]
        if most < max(FEWEST_AGREE, LEAST_AGREE * len(self._lengths)) or len(likely) > 1:
            return ()
        (size,) = likely
        blocks = max(self._told[size])
        if size == block_size:
            return (f"{RECORDED} {blocks:,} KV blocks: num_gpu_blocks_override={blocks} simulates them",)
        return (
            f"the records are of {blocks:,} KV blocks of {size} tokens, not of {block_size}: give --engine "
            f"block_size={size} and num_gpu_blocks_override={blocks}",
        )
