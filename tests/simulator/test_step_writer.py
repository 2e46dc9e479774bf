"""Steps as --steps-out writes them."""

import json

from slotune.tests.simulator.runs import Setup, make_trace, plain_engine, run


def test_steps_name_their_replica_where_there_are_several() -> None:
    trace = make_trace([0.0, 0.0, 0.001, 0.5], [40, 50, 60, 70], [5, 6, 7, 8])
    several, one = (run(Setup(trace, plain_engine(), replicas=replicas)) for replicas in (3, 1))
    where = several.result.requests.replica
    lines = [json.loads(line) for line in several.text.splitlines()]
    assert {line["replica"] for line in lines} == {0, 1, 2}
    for line in lines:
        assert {int(where[int(request)]) for request, _, _ in line["rows"]} == {line["replica"]}
    assert not any("replica" in json.loads(line) for line in one.text.splitlines())
