"""Why an engine did not start or died, from its exit code and its log: a stable word and one line."""

import re
import signal
from dataclasses import dataclass

from ...errors import EngineError


@dataclass(frozen=True, slots=True)
class Cause:
    """One way to fail."""

    reason: str
    """Short and stable, as in a study's failure column."""
    pattern: re.Pattern[str]
    """What the log says then; group `said`, where there is one, is what a person needs to read."""
    mend: str


def _cause(reason: str, mend: str, *patterns: str) -> list[Cause]:
    return [Cause(reason, re.compile(pattern, re.MULTILINE), mend) for pattern in patterns]


CAUSES = [
    *_cause(
        "port",
        "another process took the port; try again",
        r"(?P<said>\[Errno 98\][^\n]*)",
        r"(?P<said>[Aa]ddress already in use[^\n]*)",
    ),
    *_cause(
        "kv-cache",
        "raise gpu_memory_utilization (VLLM_CPU_KVCACHE_SPACE on a CPU) or lower max_model_len",
        r"(?P<said>No available memory for the cache blocks[^\n.]*)",
        r"(?P<said>To serve at least one request with the models?'s max seq len[^\n]*)",
        r"(?P<said>The model's max seq len \(\d+\) is larger than the maximum number of tokens[^\n]*)",
    ),
    *_cause(
        "out-of-memory",
        "lower gpu_memory_utilization, max_num_batched_tokens or max_num_seqs, or free the device",
        r"(?P<said>(?:CUDA|HIP|XPU) out of memory[^\n]*)",
        r"(?P<said>OutOfMemoryError[^\n]*)",
        r"(?P<said>Free memory on device [^\n]*is less than desired[^\n]*)",
        r"(?P<said>Available memory on node [^\n]*is less than requested[^\n]*)",
        r"(?P<said>[^\n]*DefaultCPUAllocator: (?:can't|not enough)[^\n]*)",
        r"(?P<said>[^\n]*[Nn]ot enough (?:host )?memory[^\n]*)",
        r"^(?:\([^)]*\) )*(?:ERROR [^\]]*\] )?(?P<said>MemoryError[^\n]*|[^\n]*Cannot allocate memory[^\n]*)",
    ),
    *_cause(
        "model",
        "give a model folder or the name of a model that vLLM supports; without weights, --engine load_format=dummy",
        r"(?P<said>Cannot find any model weights[^\n]*)",
        r"(?P<said>Invalid repository ID or local directory specified[^\n]*)",
        r"(?P<said>[^\n:]*is not a local folder and is not a valid model identifier[^\n]*)",
        r"(?P<said>[^\n:]*does not appear to have a file named[^\n]*)",
        r"(?P<said>Model architectures [^\n]* (?:are|failed)[^\n]*)",
        r"(?P<said>The checkpoint you are trying to load has model type[^\n]*)",
        r"(?:LocalEntryNotFoundError|RepositoryNotFoundError): (?P<said>[^\n]*)",
    ),
    *_cause(
        "bad-argument",
        "correct that setting",
        r"error: (?P<said>(?:unrecognized arguments?|argument |ambiguous option|the following arguments)[^\n]*)",
        r"validation errors? for \w+\n(?:[^\n]*\n)??(?:\([^)]*\) )?(?P<said>[^\n]+?)(?: \[type=[^\n]*)?$",
        r"(?P<said>User-specified max_model_len[^\n]*?)(?: \[type=[^\n]*)?$",
    ),
    *_cause(
        "drafts",
        "a validation sets which drafts are accepted, and vLLM supports that on GPUs only",
        r"AssertionError: (?P<said>Synthetic acceptance not supported[^\n]*)",
    ),
    *_cause("disk-full", "free space and run again", r"(?P<said>[^\n]*No space left on device[^\n]*)"),
]
"""In order: what is said of memory is more telling than the errors it leads to."""

LONGEST = 240
"""Characters of what is quoted."""
SIGKILL_MEND = "if nobody did that, the kernel did because memory ran out: make the KV cache smaller or free memory"
LAST_ERROR = re.compile(
    r"^(?:\([^)]*\) )?(?:ERROR [^\]]*\] )?(?P<said>\w[\w.]*(?:Error|Exception)\b:? ?[^\n]*)", re.MULTILINE
)
ECHO = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError|EngineCore encountered"
)
"""What vLLM's other processes say when one of them is gone, whatever the cause."""


def diagnose(log: str, exit_code: int | None) -> EngineError:
    """The error that ends a start which failed.

    Args:
        log: what the engine wrote, or the end of it.
        exit_code: of the engine; 128 + n or -n for signal n; None: still running, but not healthy in time.
    """
    for cause in CAUSES:
        if match := cause.pattern.search(log):
            return EngineError(f"{_tidy(match['said'])}: {cause.mend}", cause.reason)
    if exit_code is None:
        return EngineError(f"the engine was not ready in time; the last line of its log: {last_words(log)}", "hang")
    errors = [match["said"] for match in LAST_ERROR.finditer(log)]
    causes = [said for said in errors if not ECHO.search(said)]
    if exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL) or (errors and not causes):
        return EngineError(f"a process of the engine was killed; {SIGKILL_MEND}", "killed")
    said = _tidy(causes[-1]) if causes else last_words(log)
    return EngineError(f"the engine ended with code {exit_code}: {said}", "crashed")


def last_words(log: str) -> str:
    """The last line that is not empty."""
    lines = [line for line in log.splitlines() if line.strip()]
    return _tidy(lines[-1]) if lines else "none"


def _tidy(text: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().removeprefix("Value error, ").rstrip(" .")
    plain = re.sub(r"^(\([^)]*pid=\d+\) )?((ERROR|WARNING|INFO) [^\]]*\] )?", "", plain)
    plain = re.split(r"\.\s+(?=[A-Z])", plain)[0]  # vLLM's second sentence is its own advice
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 3] + "..."
