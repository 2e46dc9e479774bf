"""One sitting with a running engine: sends staircases and the sentinel, collects the steps that they made."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...arrays import F64
from ...errors import EngineError
from ...simulator.features import TOTALS
from ...simulator.steps import StepRecord
from ..engine.load import Call, send
from ..engine.prompts import random_tokens
from ..engine.server import DEATH_S, Server
from ..surrogate.samples import StepSamples, totals_of_step
from .design import Space, Staircase, forecast, possible
from .drift import Drift, drift_of
from .overhead import Passages, passages
from .recording import StepTail

WARM_UP, SENTINEL, STAIRCASE = "warm", "sentinel", "s"
"""How request names begin; a limit on step tokens stands before them (recorder.py)."""
SENTINEL_PROMPT, SENTINEL_TOKENS = 128, 10
WARM_UP_GROUPS = (((64,), (64, 64, 64)), ((256,),))
CAP_PREFIX = re.compile(r"^slotune-cap\d+-")
RECORD_TIMEOUT_S = 5.0


class Collected:
    """Steps of one or more sittings, reduced to what a fit needs; a decode verifies up to `drafts` drafts."""

    def __init__(self, drafts: int = 0) -> None:
        self._drafts = drafts
        self._totals: list[F64] = []
        self._spans: list[tuple[float, float]] = []
        self._sittings: list[int] = []
        self._visits: dict[tuple[int, str], list[StepRecord]] = defaultdict(list)
        self.ways: list[Passages] = []

    def __len__(self) -> int:
        return len(self._totals)

    def add(self, records: Iterable[StepRecord], sitting: int = 0) -> None:
        """Take in steps; those in which warm-up requests ran are left out."""
        for record in records:
            kinds = {_kind(name) for name, _, _ in record.rows}
            if not kinds or any(kind.startswith(WARM_UP) for kind in kinds) or record.end_s <= record.start_s:
                continue
            if len(kinds) == 1 and (visit := kinds.pop()).startswith(SENTINEL):
                self._visits[sitting, visit].append(record)
            self._totals.append(totals_of_step(record, self._drafts))
            self._spans.append((record.start_s, record.end_s))
            self._sittings.append(sitting)

    def drift(self) -> Drift:
        """How fast the machine was, by the sentinel."""
        return drift_of(self._visits)

    def samples(self, steadied: bool = False) -> StepSamples:
        """All steps; `steadied`, each time divided by the machine's slowness at that moment."""
        spans = np.array(self._spans).reshape(-1, 2)
        slowness = self.drift().at(np.array(self._sittings), spans.mean(axis=1)) if steadied else 1.0
        return StepSamples(np.array(self._totals).reshape(-1, TOTALS), (spans[:, 1] - spans[:, 0]) / slowness)


class Sitting:
    """Drives one running engine; `patience_s` says how long it may be silent with requests in flight."""

    def __init__(
        self,
        server: Server,
        vocabulary: int,
        seed: int,
        number: int,
        collected: Collected,
        patience_s: Callable[[], float],
    ) -> None:
        assert server.steps_path is not None
        self.space = space_of(server.facts)
        self._server = server
        self._vocabulary = vocabulary
        self._seed = (seed, number)
        self._number = number
        self._tail = StepTail(server.steps_path)
        self._collected = collected
        self._patience_s = patience_s
        self._count = 0

    def warm_up(self) -> None:
        """Requests whose steps do not count: kernels are compiled and caches filled at first use."""
        for groups in WARM_UP_GROUPS:
            self._take(self._calls(possible(Staircase(groups, 0, 4), self.space), f"{WARM_UP}{self._next()}"))

    def sentinel(self) -> None:
        """The request that tells the machine's speed."""
        prompt = max(1, min(SENTINEL_PROMPT, self.space.max_model_len - SENTINEL_TOKENS))
        call = self._call(f"{SENTINEL}{self._next()}.0", prompt, SENTINEL_TOKENS, cap=0)
        self._take([call])

    def staircase(self, staircase: Staircase) -> None:
        """Run a staircase and take in its steps."""
        self._take(self._calls(possible(staircase, self.space), f"{STAIRCASE}{self._next()}"))

    def _take(self, calls: Sequence[Call]) -> None:
        _, answers = send(calls, self._server.base_url, self._server.model, silence_s=self._patience_s())
        self._server.check(DEATH_S if any(answer.error for answer in answers) else 0.0)
        if all(answer.error is not None for answer in answers):
            raise EngineError(f"the engine answers no request: {answers[0].error}", "no-answer")
        ends = {
            call.name: len(call.prompt) + call.output_tokens - 1
            for call, answer in zip(calls, answers, strict=True)
            if not call.background and answer.error is None
        }
        records = self._tail.read_until(ends, RECORD_TIMEOUT_S)
        if not records:
            raise EngineError(
                f"of what was answered, no step was recorded: disk full, or {self._server.log_path} says why",
                "no-steps",
            )
        self._collected.add(records, self._number)
        if not _kind(calls[0].name).startswith(WARM_UP):
            self._collected.ways.append(passages(calls, answers, records))

    def _calls(self, staircase: Staircase, name: str) -> list[Call]:
        """Requests of all groups but the last go on until the last has ended."""
        enough = 2 * len(forecast(staircase, self.space)) + 16
        calls: list[Call] = []
        follows: int | None = None
        for group in staircase.groups:
            last = group is staircase.groups[-1]
            for length in group:
                room = self.space.max_model_len - length
                tokens = min(staircase.decode_tokens if last else enough, room)
                call = self._call(f"{name}.{len(calls)}", length, tokens, staircase.cap)
                call = replace(call, follows=follows, tokens_before=staircase.decode_tokens, background=not last)
                calls.append(call)
            follows = len(calls) - 1
        return calls

    def _call(self, name: str, prompt: int, tokens: int, cap: int) -> Call:
        key = (*self._seed, self._count, int(name.rpartition(".")[2]))
        named = f"slotune-cap{cap}-{name}" if name.endswith(".0") else name
        return Call(random_tokens(prompt, self._vocabulary, key).tolist(), max(1, tokens), name=named)

    def _next(self) -> int:
        self._count += 1
        return self._count


def space_of(facts: Mapping[str, Any]) -> Space:
    """What the engine can do, from what it says of itself."""
    return Space(
        max_num_batched_tokens=int(facts["max_num_batched_tokens"]),
        max_num_seqs=int(facts["max_num_active_seqs"] or facts["max_num_seqs"]),
        max_model_len=int(facts["max_model_len"]),
        kv_tokens=(int(facts["num_gpu_blocks"]) - 1) * int(facts["block_size"]),
        chunked=facts.get("enable_chunked_prefill") is not False,
    )


def _kind(name: str) -> str:
    """`s12` of `slotune-cap64-s12.3`."""
    return CAP_PREFIX.sub("", name).partition(".")[0]
