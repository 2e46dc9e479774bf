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
    for name in ("bytes_per_batched_token", "bytes_per_seq"):
        with pytest.raises(InputError, match="must be 0 or more"):
            KvCapacity(kv_bytes_per_token=1.0, total_bytes=GIB, **{name: -1.0})


def test_a_gpu_that_is_not_told_its_share_gives_vllm_s_92_per_cent() -> None:
    told = {name: value for name, value in asked().items() if name != "gpu_memory_utilization"}
    assert FORMULA.cache_bytes(told) == pytest.approx(0.92 * 80 * GIB - 18 * GIB - 819.2 * MIB - 256 * MIB)


@pytest.mark.parametrize(
    ("dtype", "elements"),
    [("auto", 1), ("bfloat16", 1), ("float16", 1), ("fp8", 0.5), ("fp8_e4m3", 0.5), ("fp8_e5m2", 0.5), ("float32", 2)],
)
def test_a_block_takes_what_its_elements_do(dtype: str, elements: float) -> None:
    assert FORMULA.block_bytes(asked(kv_cache_dtype=dtype)) == elements * 16 * 131072
    of_one_byte = replace(FORMULA, element_bytes=1.0)
    plain = of_one_byte.block_bytes(asked(kv_cache_dtype=dtype))
    assert plain == (16 * 131072 if dtype == "auto" else elements * 2 * 16 * 131072)


def test_index_keys_take_the_same_in_a_cache_of_any_format() -> None:
    with_index = replace(FORMULA, kv_bytes_per_token=131072.0 + 1024, index_bytes_per_token=1024.0)
    found = [with_index.block_bytes(asked(kv_cache_dtype=dtype)) for dtype in ("auto", "fp8", "float32")]
    assert found == [16 * (131072 * elements + 1024) for elements in (1, 0.5, 2)]


def test_the_null_block_alone_is_no_cache() -> None:
    assert FORMULA.num_gpu_blocks(asked(gpu_memory_utilization=0.1)) == 0, "and not fewer"
    for blocks in (0, 1):
        with pytest.raises(InputError, match="no memory is left"):
            KvCapacity(1.0, kv_cache_memory_bytes=16.0 * blocks + 1).checked_blocks(asked())
    assert KvCapacity(1.0, kv_cache_memory_bytes=32.0).checked_blocks(asked()) == 2


def test_only_an_estimate_may_be_off() -> None:
    """53.0 GiB are left beside what may be 1 GiB more or less."""
    doubted = replace(FORMULA, error_bytes=GIB)
    left_gib = 0.9 * 80 - 18 - 0.8 - 0.25
    assert doubted.error_share(asked()) == pytest.approx(1 / left_gib)
    assert FORMULA.error_share(asked()) == 0
    for told in ({"kv_cache_memory_bytes": GIB}, {"num_gpu_blocks_override": 9}, {"gpu_memory_utilization": 0.1}):
        assert doubted.error_share(asked(**told)) == 0
    assert doubted.observed([KvObservation(asked(), 20_000)]).error_bytes == 0, "a start has told it"


def test_a_start_that_was_told_its_cache_teaches_nothing_and_is_remembered() -> None:
    given = KvObservation(asked(kv_cache_memory_bytes=GIB), 500)
    learned = FORMULA.observed([given])
    assert learned == replace(FORMULA, observations=(given,))
    assert FORMULA.observed([given, KvObservation(asked(), 20_000)]).num_gpu_blocks(asked()) == 20_000


def test_what_a_held_term_does_not_explain_the_others_do() -> None:
    """Batched tokens take nothing in truth, even a little less, where the formula says 0.1 MiB; a sequence 3 MiB."""
    starts = [asked(max_num_batched_tokens=t, max_num_seqs=s) for t, s in ((2048, 64), (4096, 128), (8192, 512))]
    starts.append(asked(max_num_batched_tokens=2048, max_num_seqs=128))
    left = [
        0.9 * 80 * GIB - 20 * GIB + 0.001 * MIB * one["max_num_batched_tokens"] - 3 * MIB * one["max_num_seqs"]
        for one in starts
    ]
    seen = [KvObservation(one, int(cache // (16 * 131072))) for one, cache in zip(starts, left, strict=True)]
    learned = FORMULA.observed(seen)
    assert learned.bytes_per_batched_token == 0
    assert learned.bytes_per_seq == pytest.approx(3 * MIB, rel=0.02)
    assert learned.fixed_bytes == pytest.approx(20 * GIB, rel=0.001)
