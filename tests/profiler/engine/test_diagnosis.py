"""Every log here was written by vLLM 0.32, each failure provoked on purpose; folders were renamed and lines cut."""

from pathlib import Path

import pytest

from slotune.profiler.engine.diagnosis import diagnose

LOGS = Path(__file__).with_name("logs")


@pytest.mark.parametrize(
    ("name", "exit_code", "reason", "said"),
    [
        ("bad-argument-unknown", 2, "bad-argument", "unrecognized arguments: --max-num-seqsx 3"),
        ("bad-argument-value", 2, "bad-argument", "argument --max-num-seqs: invalid int value: 'many'"),
        ("bad-argument-combination", 1, "bad-argument", "max_num_batched_tokens (16) must be greater than or equal to"),
        ("bad-argument-model-len", 1, "bad-argument", "max_model_len (99999) is greater than the derived"),
        ("kv-cache", 1, "kv-cache", "max seq len (4096), (0.03 GiB KV cache is needed"),
        ("out-of-memory-cpu", 1, "out-of-memory", "is less than requested memory for kv (400.0 GiB)"),
        ("model-no-weights", 1, "model", "Cannot find any model weights with `/models/model`"),
        ("model-architecture", 1, "model", "model type `foo` but Transformers does not recognize"),
        ("model-hub-name", 1, "model", "Cannot find an appropriate cached snapshot"),
        ("drafts-cpu", 1, "drafts", "Synthetic acceptance not supported with CPU sampling: a validation sets"),
        ("killed-worker", 1, "killed", "killed"),
        ("port", 1, "port", "Address already in use"),
    ],
)
def test_a_failed_start_is_told_in_one_line(name: str, exit_code: int, reason: str, said: str) -> None:
    error = diagnose((LOGS / f"{name}.log").read_text(), exit_code)
    assert (error.reason, error.exit_code) == (reason, 1)
    assert said in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 400


def test_every_log_is_tried() -> None:
    assert len(list(LOGS.glob("*.log"))) == 12


@pytest.mark.parametrize("exit_code", [-9, 137])
def test_a_killed_engine_is_called_killed(exit_code: int) -> None:
    error = diagnose("INFO all is well\n", exit_code)
    assert error.reason == "killed"
    assert "memory ran out" in str(error)


def test_cuda_messages_are_known() -> None:
    """Quoted from vLLM's and torch's sources: there was no GPU to provoke them on."""
    said = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
    )
    assert diagnose(f"(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:1] {said}\n", 1).reason == "out-of-memory"
    little = "ValueError: Free memory on device cuda:0 (1.2/79.1 GiB) on startup is less than desired GPU memory"
    assert diagnose(f"{little} utilization (0.92, 72.8 GiB).\n", 1).reason == "out-of-memory"
    none = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
    assert diagnose(f"{none} when initializing the engine.\n", 1).reason == "kv-cache"


def test_what_nobody_foresaw_is_told_by_its_last_error() -> None:
    error = diagnose("warming up\nZeroDivisionError: division by zero\n", 1)
    assert (error.reason, str(error)) == (
        "crashed",
        "the engine ended with code 1: ZeroDivisionError: division by zero",
    )


def test_a_full_disk_is_no_crash() -> None:
    error = diagnose("(APIServer pid=7) OSError: [Errno 28] No space left on device: '/tmp/torchinductor'\n", 1)
    assert error.reason == "disk-full"
    assert str(error).endswith("No space left on device: '/tmp/torchinductor': free space and run again")


def test_a_start_that_takes_too_long_tells_its_last_words() -> None:
    error = diagnose("loading\n\n(EngineCore pid=7) INFO 01-01 00:00:00 [core.py:1] still loading\n\n", None)
    assert (error.reason, "the last line of its log: still loading" in str(error)) == ("hang", True)


def test_an_engine_that_said_nothing() -> None:
    assert str(diagnose("", 3)) == "the engine ended with code 3: none"
