"""What a study of the small files (conftest.py) is asked."""

from slotune.simulator.slo import parse_slo
from slotune.tuner.study.task import ask


def asked(files, *slos, trials=24, **more):
    return ask(*files, slos=[parse_slo(slo) for slo in slos], trials=trials, **more)
