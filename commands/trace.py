"""`slotune trace`: look at a workload, make one, read foreign formats."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..figures import figure
from ..traces.limits import MOST_REQUESTS, MOST_SYSTEM_PROMPTS
from .notes import note, note_read
from .options import duration as seconds
from .options import json_option, moment, out_file_option, positive_number, seed_option
from .output import check_outputs, emit_json, table, writing

if TYPE_CHECKING:
    from ..traces.trace import Trace

format_option = click.option(
    "--format",
    metavar="NAME",
    help="mooncake, azure, burstgpt, vidur, sharegpt or vllm-bench; default: detected from the file's content.",
)
tokenizer_option = click.option(
    "--tokenizer",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="A model's folder with its tokenizer.json. It counts the tokens of ShareGPT files, which hold text.",
)


@click.group()
def command() -> None:
    """Look at a workload, generate one, convert other formats.

    \b
    Example:
      slotune trace stats chat
    """


@command.command()
@click.argument("trace")
@format_option
@tokenizer_option
@json_option
def stats(trace: str, format: str | None, tokenizer: Path | None, as_json: bool) -> None:
    """Show lengths, rates, burstiness and shared prefixes.

    TRACE is a file or the name of a bundled trace.

    \b
    Example:
      slotune trace stats chat
    """
    from ..traces.read import read_trace
    from ..traces.stats import trace_stats

    load = read_trace(trace, format=format, tokenizer=tokenizer)
    note_read(load)
    result = trace_stats(load)
    if as_json:
        emit_json(result)
        return
    lengths = {name: value for name, value in result.items() if isinstance(value, dict)}
    table(["", "value"], [(name, value) for name, value in result.items() if name not in lengths])
    click.echo()
    table(["", *lengths["prompt_tokens"]], [(name, *figures.values()) for name, figures in lengths.items()])


@command.command()
@click.option(
    "--requests", type=click.IntRange(1, MOST_REQUESTS), default=1000, show_default=True, help="How many requests."
)
@click.option("--rate", type=positive_number, required=True, metavar="R", help="Requests per second, kept exactly.")
@click.option(
    "--cv",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Burstiness: coefficient of variation of the gaps (gamma distributed); 1 is Poisson, 0 evenly spaced.",
)
@click.option(
    "--group",
    type=click.IntRange(1, MOST_REQUESTS),
    default=1,
    show_default=True,
    help="Number of requests that arrive together.",
)
@click.option(
    "--prompt-tokens",
    metavar="FIGURES",
    help="N (constant), LOW-HIGH (uniform), P50/P99 (log-normal) or MEAN/P50/P99; with --turns: what each turn adds.",
)
@click.option("--output-tokens", metavar="FIGURES", help="The same for outputs.")
@click.option("--like", metavar="TRACE", help="Instead of the two: draw pairs of lengths from another trace.")
@click.option("--turns", type=click.IntRange(min=1), default=1, show_default=True, help="Turns per conversation.")
@click.option(
    "--users",
    type=click.IntRange(1, MOST_REQUESTS),
    default=50,
    show_default=True,
    help="Conversations under way at once.",
)
@click.option(
    "--system-prompts",
    type=click.IntRange(0, MOST_SYSTEM_PROMPTS),
    default=0,
    show_default=True,
    help="Number of system prompts; each request starts with one of them, before the prompt tokens drawn for it.",
)
@click.option(
    "--system-prompt-tokens", type=click.IntRange(min=1), default=200, show_default=True, help="Their length."
)
@seed_option
@out_file_option
@json_option
def make(
    requests: int,
    rate: float,
    cv: float,
    group: int,
    prompt_tokens: str | None,
    output_tokens: str | None,
    like: str | None,
    turns: int,
    users: int,
    system_prompts: int,
    system_prompt_tokens: int,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Generate a trace from summary statistics.

    The example makes the bundled trace `chat`, with the request rate, burstiness and lengths (mean, median, 99th
    percentile) of the Azure conversation trace of 2023.

    \b
    Example:
      slotune trace make --requests 1000 --rate 5.5 --cv 1.09 \\
        --prompt-tokens 1155/1020/4142 --output-tokens 211/129/601 --out chat.jsonl
    """
    from ..traces.generate import make_trace, parse_lengths
    from ..traces.read import read_trace

    if (like is None) == (prompt_tokens is None) or (prompt_tokens is None) != (output_tokens is None):
        raise click.UsageError("give --prompt-tokens and --output-tokens, or --like")
    check_outputs({"--out": out}, like)
    lengths = [parse_lengths(text) for text in (prompt_tokens, output_tokens) if text is not None]
    trace = make_trace(
        requests,
        rate,
        lengths=(lengths[0], lengths[1]) if lengths else read_trace(str(like)),
        seed=seed,
        cv=cv,
        group=group,
        turns=turns,
        users=users,
        system_prompts=system_prompts,
        system_prompt_tokens=system_prompt_tokens,
    )
    _write(trace, out, as_json)


@command.command()
@click.argument("trace")
@format_option
@tokenizer_option
@click.option(
    "--from",
    "from_s",
    type=moment,
    metavar="D",
    help="Only requests that arrive D after the trace begins, or later; D becomes 0. The busy hour: --from 9h with "
    "--duration 1h.",
)
@click.option("--requests", type=click.IntRange(min=1), metavar="N", help="Only the first N requests.")
@click.option("--duration", type=seconds, metavar="D", help="Only requests that arrive in the first D, such as 10m.")
@click.option(
    "--spread",
    is_flag=True,
    help="Spread requests of the same arrival time at random over what times are rounded to, such as 3 s in Mooncake's "
    "and 1 s in BurstGPT's.",
)
@click.option(
    "--rate",
    type=positive_number,
    metavar="R",
    help="Rescale the arrivals to R requests per second; a trace without arrival times gets Poisson arrivals.",
)
@click.option(
    "--cv", type=click.FloatRange(min=0), help="With --rate: new arrivals of this burstiness (1: Poisson, 0: even)."
)
@click.option(
    "--superpose",
    is_flag=True,
    help="With --rate: overlay copies of the trace instead of squeezing time, so that busy minutes keep their length "
    "(up to the rest to whole copies, where conversations are not to be torn).",
)
@seed_option
@out_file_option
@json_option
def convert(
    trace: str,
    format: str | None,
    tokenizer: Path | None,
    from_s: float | None,
    requests: int | None,
    duration: float | None,
    spread: bool,
    rate: float | None,
    cv: float | None,
    superpose: bool,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Read TRACE and write it as slotune's JSON lines.

    Options apply in the order listed here.

    A log of your own can be CSV (other columns are passed over, unless they tell of images, audio, video or adapters; a
    request with 0 generated tokens failed and is left out) or JSON lines (answered requests only, times in
    milliseconds):

    \b
      TIMESTAMP,ContextTokens,GeneratedTokens
      2026-03-02 09:15:46.681+00:00,374,44
    \b
      {"timestamp": 1250, "input_length": 374, "output_length": 44, "prefix": [["system prompt", 200]]}

    "prefix" names the runs that a prompt begins with and gives their tokens; prompts share what begins with the same
    names. Without it, as in CSV, prompts share nothing and the prefix cache finds nothing.

    \b
    Example:
      slotune trace convert conversation_trace.jsonl --duration 10m --spread --out conversation.jsonl
    """
    from ..traces.read import read_trace
    from ..traces.transform import converted

    if rate is None and (cv is not None or superpose):
        raise click.UsageError(f"{'--superpose' if superpose else '--cv'} needs --rate")
    if cv is not None and superpose:
        raise click.UsageError("--superpose keeps the trace's arrivals and --cv makes new ones: give one of them")
    check_outputs({"--out": out}, trace)
    load = read_trace(trace, format=format, tokenizer=tokenizer)
    note_read(load, rescaled=bool(rate), retimed=spread or cv is not None)
    if from_s is not None or duration is not None:
        _note_idle(load)
    result = converted(
        load,
        seed,
        requests=requests,
        duration_s=duration,
        spread_bins=spread,
        rate=rate,
        cv=cv,
        superpose=superpose,
        from_s=from_s,
    )
    _write(result, out, as_json)


def _note_idle(trace: "Trace") -> None:
    """Say on stderr where the times by which a trace is cut begin long before its load does."""
    from ..traces.arrivals import idle_s

    if late_s := idle_s(trace.arrival_s):
        note(f"nothing arrives in the first {figure(late_s, 2)} s of the file, which --from and --duration count")


def _write(trace: "Trace", out: Path, as_json: bool) -> None:
    """Write the trace and say what it is."""
    from ..traces.arrivals import span_s
    from ..traces.mooncake import write_trace
    from ..traces.stats import trace_stats

    with writing(out):
        write_trace(trace, out)
    if as_json:
        emit_json({"trace": out, **trace_stats(trace)})
    else:
        click.echo(f"{out}: {len(trace)} requests over {span_s(trace.arrival_s):.0f} s")
