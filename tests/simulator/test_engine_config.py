"""Settings resolved into the engine's configuration, and what is refused of them."""

import pytest

from slotune.errors import InputError
from slotune.simulator.engine_config import resolve


@pytest.mark.parametrize("name", ["max_num_seqs", "max_model_len", "max_num_batched_tokens"])
def test_the_setting_that_is_wrong_is_the_one_that_is_blamed(name: str):
    with pytest.raises(InputError, match=f"^{name}=0: must be at least 1"):
        resolve({name: 0}, {}, 100)
