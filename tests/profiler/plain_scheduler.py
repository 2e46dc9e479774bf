"""A scheduler of the shape that vLLM's has, for the recorder to be mixed into."""

from types import SimpleNamespace
from typing import Any


class Scheduler:
    """Schedules whatever it is told to, as vLLM's does: computed tokens advance at schedule time."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.unfinished = True
        self.closed = False
        self.max_num_scheduled_tokens = 512
        self.scheduler_config = SimpleNamespace(max_num_batched_tokens=512)
        pool = SimpleNamespace(get_num_free_blocks=lambda: 42)
        self.kv_cache_manager = SimpleNamespace(block_pool=pool)

    def add_request(self, request: Any) -> None:
        self.requests[request.request_id] = request

    def schedule(self, tokens: dict[str, int]) -> Any:
        for name, count in tokens.items():
            self.requests[name].num_computed_tokens += count
        return SimpleNamespace(num_scheduled_tokens=tokens)

    def update_from_output(self, output: Any) -> str:
        return "outputs"

    def has_unfinished_requests(self) -> bool:
        return self.unfinished

    def _preempt_request(self, request: Any, timestamp: float) -> None:
        request.num_computed_tokens = 0

    def set_pause_state(self, state: str) -> None:
        self.pause_state = state

    def shutdown(self) -> None:
        self.closed = True
