"""Streams simulated steps to disk as step records, JSON lines."""

import json
from typing import BinaryIO

from ..traces.trace import Trace
from .replica import Replica


class StepWriter:
    """A sink for `simulate(steps_out=...)`: writes each batch of steps as the simulation hands it over."""

    def __init__(self, out: BinaryIO, trace: Trace, replicas: int) -> None:
        self._out = out
        self._names = [json.dumps(trace.id_of(i)) for i in range(len(trace))]
        self._name_replica = replicas > 1

    def __call__(self, replica: Replica) -> None:
        """Write what is in the replica's log."""
        engine, names = replica.engine, self._names
        state, log, preempted_log = engine.state[0], engine.step_log, engine.preempted_log
        steps, taken = int(state.logged_steps), engine.row_log[: state.logged_rows]
        rows = [
            f"[{names[request]},{tokens},{context}]"
            for request, tokens, context in zip(
                taken["request"].tolist(), taken["tokens"].tolist(), taken["context"].tolist(), strict=True
            )
        ]
        starts_ms, ends_ms = ((time_s[:steps] * 1e3).tolist() for time_s in (log.start_s, log.end_s))
        tail = f',"replica":{replica.index}}}\n' if self._name_replica else "}\n"
        row, preempted, lines = 0, 0, []
        for step in range(steps):
            row_end, preempted_end = int(log.row_end[step]), int(log.preempted_end[step])
            gone = ",".join(names[request] for request in sorted(preempted_log[preempted:preempted_end].tolist()))
            lines.append(
                f'{{"step":{replica.recorded_steps + step + 1},"start_ms":{starts_ms[step]!r},'
                f'"end_ms":{ends_ms[step]!r},"rows":[{",".join(rows[row:row_end])}],"preempted":[{gone}],'
                f'"free_blocks":{log.free_blocks[step]}{tail}'
            )
            row, preempted = row_end, preempted_end
        self._out.write("".join(lines).encode())
