"""`slotune profile`: what an engine's steps cost, from four sources, and how far each may be trusted."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .notes import warn
from .options import (
    acceptance_rate_option,
    duration,
    engine_options,
    json_option,
    out_option,
    seed_option,
    vllm_python_option,
)
from .output import writing

if TYPE_CHECKING:
    from ..profiler.profile import Profile

STEPS_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _version(text: str) -> str:
    from ..simulator.versions import numbers_of

    if numbers_of(text) is None:
        raise click.BadParameter(f"{text!r} is not a version; write it like 0.25.1")
    return text


# version: str | None
vllm_version_option = click.option(
    "--vllm-version",
    "version",
    type=_version,
    metavar="V",
    help="The vLLM version whose scheduling rules are simulated, e.g. 0.25.1; default: 0.32.",
)


@click.group()
def command() -> None:
    """Make a profile of an engine's step times, or look at one.

    \b
    Example:
      slotune profile linear --base-ms 5 --prefill-token-ms 0.02 --decode-seq-ms 0.05 --context-token-ms 0.00002 --out p
      slotune profile show p
    """


@command.command()
@click.option("--base-ms", type=float, required=True, metavar="B", help="Milliseconds that every step takes.")
@click.option("--prefill-token-ms", type=float, required=True, metavar="P", help="Milliseconds for each prefill token.")
@click.option(
    "--decode-seq-ms", type=float, required=True, metavar="D", help="Milliseconds for each decoding sequence."
)
@click.option(
    "--context-token-ms",
    type=float,
    required=True,
    metavar="C",
    help="Milliseconds for each context token of any row.",
)
@vllm_version_option
@out_option
@json_option
def linear(
    base_ms: float,
    prefill_token_ms: float,
    decode_seq_ms: float,
    context_token_ms: float,
    version: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Make a profile from a formula, for tests and rough numbers.

    A step takes B + P * prefill tokens + D * decode rows + C * context tokens of all rows. A row of one token with
    context is a decode, even if it is the last token of a prompt. Rows that verify drafts count as prefill tokens.
    There is no overhead outside the step. The KV cache has 1,048,576 blocks; when you use the profile, --engine
    num_gpu_blocks_override=N makes it smaller. Batch limits default to those of vLLM on a GPU of 70 GiB or more.

    \b
    Example:
      slotune profile linear --base-ms 5 --prefill-token-ms 0.02 --decode-seq-ms 0.05 --context-token-ms 0.00002 --out p
    """
    from ..profiler.profile import linear_profile

    profile = linear_profile(
        base_ms / 1e3, prefill_token_ms / 1e3, decode_seq_ms / 1e3, context_token_ms / 1e3, out.name, version
    )
    _write(profile, out)
    if as_json:
        _show(profile, as_json)
    else:
        click.echo(f"{out}: {profile.provenance}")


@command.command()
@click.argument("steps", nargs=-1, required=True, metavar="STEPS.jsonl...", type=STEPS_FILE)
@click.option("--model", metavar="M", help="The model that was served.")
@vllm_version_option
@engine_options
@acceptance_rate_option
@seed_option
@out_option
@json_option
def fit(
    steps: tuple[Path, ...],
    model: str | None,
    version: str | None,
    engine: tuple[str, ...],
    engine_config: Path | None,
    acceptance_rate: str | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Fit a profile to step records, e.g. of a production engine.

    Step records have the format of `slotune simulate --steps-out`: one line of JSON per step. vLLM records its own
    steps if slotune's profiler/recorder.py is on its PYTHONPATH under the name slotune_recorder.py, as below; each
    start of the engine overwrites its file. Give with --engine the settings under which the steps were recorded; they
    become the profile's defaults.

    \b
    Example:
      cp profiler/recorder.py slotune_recorder.py
      PYTHONPATH=. SLOTUNE_STEPS=monday.jsonl vllm serve my-model --scheduler-cls slotune_recorder.make_scheduler
      slotune profile fit monday.jsonl tuesday.jsonl --model my-model --engine max_num_seqs=256 --out profiles/prod
    """
    from ..profiler.fitted_profile import fitted_profile
    from ..profiler.model_folder import read_model_folder
    from ..profiler.profile_folder import check_target
    from ..profiler.recorded_blocks import RecordedBlocks
    from ..profiler.surrogate.steps import samples_of_files
    from ..simulator.settings import parse_settings
    from ..simulator.speculation import drafts_of

    check_target(out)
    if len(set(map(Path.resolve, steps))) < len(steps):
        raise click.UsageError("a file of step records is given twice: its steps would count as often")
    if model:
        read_model_folder(model)  # a slip of the pen is told before the records are read
    settings = parse_settings(engine, engine_config, acceptance_rate)
    blocks = RecordedBlocks(settings.get("block_size"))
    samples = samples_of_files(steps, drafts_of(settings), blocks.add)
    profile = fitted_profile(samples, settings, out.name, model, seed, version, blocks)
    profile.check_given(settings)
    _write(profile, out)
    _show(profile, as_json)


@command.command()
@click.option("--model", required=True, metavar="M", help="A model folder, or a name on a model hub.")
@click.option("--budget", type=duration, default="10m", show_default=True, help="Time to spend, e.g. 90s, 10m, 1h.")
@vllm_python_option
@engine_options
@seed_option
@out_option
@json_option
def measure(
    model: str,
    budget: float,
    vllm_python: str | None,
    engine: tuple[str, ...],
    engine_config: Path | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Start the real engine, measure it and fit a profile.

    The settings given with --engine become the profile's defaults. Ctrl-C ends the measurement early and makes the
    profile from what was measured so far. After a kill, the same command continues with the steps in OUT.measure.

    \b
    Example:
      slotune profile measure --model models/llama-3.1-8b --budget 10m --out profiles/my-gpu
    """
    from ..profiler.engine.launch import find_vllm
    from ..profiler.measurement.measure import Measurement, measure
    from ..profiler.model_folder import read_model_folder
    from ..simulator.settings import parse_settings
    from .progress import progress

    read_model_folder(model)  # before an engine is looked for: a slip of the pen is told first
    task = Measurement(model, parse_settings(engine, engine_config), out, budget, seed)
    with progress("profile measure (seconds)", budget) as bar:

        def report(done_s: float, note: str) -> None:
            bar.update(min(round(done_s), budget), note=note)

        launch = find_vllm(vllm_python)
        with writing(out):
            profile = measure(task, launch, report)
    _show(profile, as_json)


@command.group("import")
def import_() -> None:
    """Make a profile from public data, for a GPU that is not at hand.

    \b
    Example:
      slotune profile import silicon --system h200_sxm --model meta-llama/Meta-Llama-3.1-8B --out profiles/h200
    """


@import_.command()
@click.option("--system", required=True, metavar="S", help="The GPU system by its name in the tables, e.g. h200_sxm.")
@click.option(
    "--model",
    required=True,
    metavar="M",
    help="A folder with config.json, or a name on a model hub, e.g. Qwen/Qwen3-8B.",
)
@click.option("--tp", type=click.IntRange(min=1), default=1, show_default=True, help="Tensor-parallel size.")
@click.option("--pp", type=click.IntRange(min=1), default=1, show_default=True, help="Pipeline stages.")
@click.option(
    "--precision",
    metavar="F",
    help="Number format of the weights, e.g. nvfp4, fp8 (one scale a tensor), or fp8_block for checkpoints with "
    "weights in blocks, such as Qwen3-8B-FP8; default: the model's.",
)
@engine_options
@seed_option
@out_option
@json_option
def silicon(
    system: str,
    model: str,
    tp: int,
    pp: int,
    precision: str | None,
    engine: tuple[str, ...],
    engine_config: Path | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Take step times from the kernel tables of aiconfigurator-core.

    The package comes with the extra `slotune[silicon]`.

    Settings given with --engine become the profile's defaults. Of these, async_scheduling, the CUDA-graph sizes,
    kv_cache_dtype and enable_expert_parallel also change step times.

    \b
    Example:
      slotune profile import silicon --system h200_sxm --model meta-llama/Meta-Llama-3.1-8B --tp 1 --out h200-8b
    """
    from ..profiler.profile_folder import check_target
    from ..profiler.silicon.silicon_profile import import_silicon
    from ..simulator.settings import parse_settings

    check_target(out)
    settings = parse_settings(engine, engine_config)
    profile = import_silicon(system, model, tp, out.name, seed, pp=pp, precision=precision, settings=settings)
    profile.check_given(settings)
    _write(profile, out)
    _show(profile, as_json)


@command.command()
@click.argument("profile", metavar="P")
@json_option
def show(profile: str, as_json: bool) -> None:
    """Show what a profile holds, and where to trust it.

    P is a profile's folder or the name of a bundled profile.

    \b
    Example:
      slotune profile show h200-llama-3.1-8b
    """
    from ..profiler.profile_folder import load_profile

    _show(load_profile(profile), as_json)


def _write(profile: "Profile", out: Path) -> None:
    from ..profiler.profile_folder import write_profile

    with writing(out):
        write_profile(profile, out)


def _show(profile: "Profile", as_json: bool) -> None:
    """Tell what the profile holds, as a page or as one JSON document."""
    from ..profiler.profile_page import as_document, warnings
    from .output import emit_json

    if as_json:
        emit_json(as_document(profile))
    else:
        _print_page(profile)
    warn(warnings(profile))


def _print_page(profile: "Profile") -> None:
    from ..profiler import profile_page as page
    from ..profiler.provenance import KERNEL_TABLES
    from .output import table

    tables = profile.source == KERNEL_TABLES
    click.echo(profile.provenance)
    for line in page.fact_lines(profile):
        click.echo(line)
    if profile.step.held_out:
        table(
            page.ERROR_COLUMNS,
            page.error_rows(profile.step.held_out),
            title="\nHeld-out error of the fit to the tables" if tables else "\nHeld-out error of step times",
        )
        table(
            ("regime", *page.HULL_SHOWN),
            page.range_rows(profile),
            title="\nRanges of the tables" if tables else "\nMeasured ranges: trust the profile within them",
        )
