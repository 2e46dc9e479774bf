"""KV blocks: the memory formula, what vLLM would refuse, and the correction by real starts."""

from dataclasses import replace
from typing import Any

import pytest

from slotune.errors import InputError
from slotune.profiler.kv_capacity import GIB, KvCapacity, KvObservation

MIB = GIB / 1024
FORMULA = KvCapacity(
    kv_bytes_per_token=131072,
    total_bytes=80 * GIB,
    fixed_bytes=18 * GIB,
    bytes_per_batched_token=0.1 * MIB,
    bytes_per_seq=1 * MIB,
)


def asked(**changes: Any) -> dict[str, Any]:
    defaults = {"gpu_memory_utilization": 0.9, "max_num_batched_tokens": 8192, "max_num_seqs": 256, "block_size": 16}
    return {**defaults, **changes}


def test_the_formula() -> None:
    cache = 0.9 * 80 * GIB - 18 * GIB - 819.2 * MIB - 256 * MIB
    assert FORMULA.num_gpu_blocks(asked()) == int(cache // (16 * 131072))
    assert FORMULA.num_gpu_blocks(asked(block_size=32)) == int(cache // (32 * 131072))


def test_an_fp8_cache_holds_twice_as_many_blocks() -> None:
    plain, fp8 = FORMULA.num_gpu_blocks(asked()), FORMULA.num_gpu_blocks(asked(kv_cache_dtype="fp8"))
    assert fp8 in (2 * plain, 2 * plain + 1)


def test_a_fixed_share_ignores_utilization() -> None:
    fixed = KvCapacity(kv_bytes_per_token=1024, kv_cache_memory_bytes=GIB)
    assert fixed.num_gpu_blocks(asked()) == fixed.num_gpu_blocks(asked(gpu_memory_utilization=0.1)) == 65536
    assert FORMULA.num_gpu_blocks(asked(kv_cache_memory_bytes=GIB)) == 512


@pytest.mark.parametrize("unset", [None, 0])
def test_no_bytes_for_the_cache_are_as_good_as_none_given(unset: int | None) -> None:
    told = asked(kv_cache_memory_bytes=unset, num_gpu_blocks_override=None)
    assert FORMULA.checked_blocks(told) == FORMULA.num_gpu_blocks(asked())
    assert KvCapacity(1024, kv_cache_memory_bytes=GIB).num_gpu_blocks(told) == 65536
    assert replace(FORMULA, error_bytes=GIB).error_share(told) > 0


def test_a_start_that_vllm_would_refuse_is_predicted() -> None:
    assert FORMULA.checked_blocks(asked(max_model_len=131072)) > 0
    with pytest.raises(InputError, match=r"max_model_len=10000000: larger than the KV cache of .*raise gpu"):
        FORMULA.checked_blocks(asked(max_model_len=10_000_000))
    with pytest.raises(InputError, match="no memory is left"):
        FORMULA.checked_blocks(asked(gpu_memory_utilization=0.2))


@pytest.mark.parametrize(
    ("capacity", "changes", "told"),
    [
        (
            FORMULA,
            {"kv_cache_memory_bytes": GIB},
            r"of 8176 tokens \(kv_cache_memory_bytes=1073741824\); raise kv_cache_m",
        ),
        (
            KvCapacity(1.0, kv_cache_memory_bytes=160.0),
            {},
            r"\(kv_cache_memory_bytes=160\); raise kv_cache_memory_bytes",
        ),
        (FORMULA, {"kv_cache_memory_bytes": 1}, "kv_cache_memory_bytes=1: no memory .*; raise kv_cache_memory_bytes"),
    ],
)
def test_the_mend_is_what_makes_the_cache_larger(capacity: KvCapacity, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        capacity.checked_blocks(asked(max_model_len=100_000, **changes))


def test_one_sequence_must_fit_beside_the_null_block() -> None:
    exact = KvCapacity(kv_bytes_per_token=1.0, kv_cache_memory_bytes=16.0 * 11)
    assert exact.checked_blocks(asked(max_model_len=160)) == 11
    with pytest.raises(InputError, match="KV cache of 160 tokens"):
        exact.checked_blocks(asked(max_model_len=161))


def test_real_starts_correct_the_formula() -> None:
    truth = KvCapacity(
        kv_bytes_per_token=131072,
        total_bytes=80 * GIB,
        fixed_bytes=20 * GIB,
        bytes_per_batched_token=0.3 * MIB,
        bytes_per_seq=3 * MIB,
    )
    starts = [asked(max_num_batched_tokens=t, max_num_seqs=s) for t, s in ((2048, 64), (8192, 64), (2048, 512))]
    learned = FORMULA.observed([KvObservation(start, truth.num_gpu_blocks(start)) for start in starts])
    for unseen in (asked(max_num_batched_tokens=4096), asked(gpu_memory_utilization=0.7), asked(max_num_seqs=1024)):
        assert learned.num_gpu_blocks(unseen) == pytest.approx(truth.num_gpu_blocks(unseen), abs=1)
    assert max(abs(error) for error in learned.errors()) < 1e-3


def test_a_start_that_found_less_memory_than_it_should_spreads_its_error() -> None:
    """Fewer batched tokens and fewer blocks: no term may be negative, so the starts are met in the mean."""
    limits = ({}, {"max_num_batched_tokens": 4096}, {"max_num_seqs": 128})
    starts = zip(limits, (20_000, 19_600, 20_050), strict=True)
    blank = KvCapacity(kv_bytes_per_token=131072, total_bytes=80 * GIB)
    seen = [KvObservation(asked(**{"max_num_batched_tokens": 8192, "max_num_seqs": 256} | s), n) for s, n in starts]
    learned = blank.observed(seen)
    assert learned.bytes_per_batched_token == 0 <= learned.bytes_per_seq
    assert abs(sum(learned.errors())) < 1e-3
    assert max(map(abs, learned.errors())) < 0.011


def test_one_start_moves_what_is_fixed_and_nothing_else() -> None:
    learned = FORMULA.observed([KvObservation(asked(), 20_000)])
    assert learned.num_gpu_blocks(asked()) == 20_000
    assert learned.bytes_per_batched_token == FORMULA.bytes_per_batched_token
    assert learned.bytes_per_seq == FORMULA.bytes_per_seq
    assert learned.fixed_bytes != FORMULA.fixed_bytes


def test_a_capacity_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="total_bytes or kv_cache_memory_bytes"):
        KvCapacity(kv_bytes_per_token=1.0)
    with pytest.raises(InputError, match="must be above 0"):
        KvCapacity(kv_bytes_per_token=0.0, total_bytes=GIB)
    with pytest.raises(InputError, match=r"element_bytes=0.0 must be above 0"):
        KvCapacity(kv_bytes_per_token=1.0, total_bytes=GIB, element_bytes=0.0)
