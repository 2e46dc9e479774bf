"""Options that several commands share."""

import click
import pytest

from slotune.commands.options import duration, outage_option
from slotune.simulator.outage import Outage


def parsed(*words: str) -> list[Outage]:
    @click.command()
    @outage_option
    def command(outage: tuple[Outage, ...]) -> list[Outage]:
        return list(outage)

    answer: list[Outage] = command.main(list(words), standalone_mode=False)
    return answer


def test_a_duration_is_the_decimal_that_was_written() -> None:
    """700 * 0.001 is more than 0.7, and a request at 0.7 s would be in no piece or in two."""
    assert [duration(text) for text in ("700ms", "1.1h", "4.1m", "0.3s")] == [0.7, 3960.0, 246.0, 0.3]


@pytest.mark.parametrize("text", ["0s", "0.0h", "0.0000001ms"])
def test_what_is_shorter_than_a_nanosecond_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time at all"):
        duration(text)


@pytest.mark.parametrize("zero", ["0", "0s", "0.0s", "00ms"])
def test_an_outage_from_the_beginning_may_have_a_unit(zero: str) -> None:
    assert parsed("--outage", f"1:{zero}:60s") == [Outage(1, 0.0, 60.0)]


@pytest.mark.parametrize("time", ["5", "s", "-1s", "0d"])
def test_other_times_of_an_outage_need_a_unit(time: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration"):
        parsed("--outage", f"1:{time}:60s")
