"""A study is on disk the moment something is known, belongs to one question, and survives what happens to processes."""

import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from slotune.errors import InputError, SlotuneError
from slotune.tuner.study.export import read_recommendation
from slotune.tuner.study.study import Asked, Study, Trial, Versions
from slotune.whole_file import write_text

ASKED = Asked(
    profile="p",
    profile_digest="a",
    trace="t",
    trace_digest="b",
    slos=("p99:ttft:500",),
    engine={"max_num_seqs": 64},
    versions=Versions(slotune="0", smac="2", python="3"),
)
RAN = Trial({"max_num_seqs": 64}, {"p99_ttft_ms": 12.5, "p99_tpot_ms": math.nan}, origin="smac", duration_s=0.5)
FAILED = Trial({}, None, "oom", "out of memory", where="hardware", repeat=2, details={"log": "x.log"})


def test_trials_come_back_as_they_were(tmp_path):
    with Study.create(tmp_path / "s", ASKED) as study:
        study.add(RAN)
        study.add(FAILED)
    with Study.open(tmp_path / "s") as study:
        ran, failed = study.trials()
        assert study.asked == ASKED
        assert [t.number for t in study.trials("hardware")] == [2]
    assert (
        ran.settings == RAN.settings and ran.metrics["p99_ttft_ms"] == 12.5 and math.isnan(ran.metrics["p99_tpot_ms"])
    )
    assert (failed.metrics, failed.failure, failed.message, failed.repeat) == (None, "oom", "out of memory", 2)
    assert failed.details == {"log": "x.log"}


def test_the_same_run_again_replaces_itself(tmp_path):
    with Study.create(tmp_path, ASKED) as study:
        study.add(RAN)
        study.add(Trial(RAN.settings, {"p99_ttft_ms": 1.0}))
        assert [t.metrics for t in study.trials()] == [{"p99_ttft_ms": 1.0}]


def test_asking_the_same_continues_and_may_ask_for_more_trials(tmp_path):
    with Study.create(tmp_path, ASKED) as study:
        study.add(RAN)
    with Study.create(tmp_path, ASKED.model_copy(update={"trials": 200})) as study:
        assert len(study.trials()) == 1
    with Study.open(tmp_path) as study:
        assert study.asked.trials == 200


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, r"another seed \(then 0, now 1\)"),
        ({"slos": ("p99:ttft:400",)}, r"another slo \(then p99:ttft:500, now p99:ttft:400\)"),
        ({"engine": {}}, r"another engine \(then max_num_seqs=64, now none\)"),
        ({"rate": 5.0}, r"another rate \(then none, now 5.0\)"),
        ({"maximize": ("goodput",)}, r"another maximize \(then none, now goodput\)"),
        ({"trace_digest": "c"}, r"another trace \(its content changed\)"),
    ],
)
def test_asking_something_else_names_the_difference(tmp_path, change, named):
    Study.create(tmp_path, ASKED).close()
    with pytest.raises(InputError, match=named):
        Study.create(tmp_path, ASKED.model_copy(update=change))


def test_another_slotune_does_not_sign_the_numbers_of_this_one(tmp_path):
    with Study.create(tmp_path, ASKED) as study:
        study.add(RAN)
    with pytest.raises(InputError, match="made with slotune 0, and this is 1, whose numbers may be others"):
        Study.create(tmp_path, ASKED.model_copy(update={"versions": Versions(slotune="1", smac="2", python="3")}))
    newer = ASKED.model_copy(update={"versions": Versions(slotune="0", smac="3", python="4")})
    with Study.create(tmp_path, newer) as study:
        assert study.trials() and study.asked.versions.slotune == "0"


def test_targets_in_another_order_or_twice_ask_nothing_else(tmp_path):
    slos = ("p99:ttft:500", "p95:tpot:20")
    Study.create(tmp_path, ASKED.model_copy(update={"slos": slos})).close()
    for again in (slos[::-1], (*slos, slos[0])):
        with Study.create(tmp_path, ASKED.model_copy(update={"slos": again})) as study:
            assert study.asked.slos == again


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds something that is not a study"):
        Study.create(tmp_path, ASKED)
    with pytest.raises(InputError, match="is a file"):
        Study.create(tmp_path / "thesis.tex", ASKED)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_names_that_are_not_utf_8(tmp_path):
    """A study's own folder may have one; what it holds in JSON cannot."""
    with Study.create(tmp_path / "st\udce4", ASKED) as study:
        assert study.trials() == []
    with pytest.raises(InputError, match=r"'lat\\udce4.jsonl': a study cannot hold a name that is not UTF-8"):
        Study.create(tmp_path / "other", ASKED.model_copy(update={"trace": "lat\udce4.jsonl"}))
    assert not (tmp_path / "other").exists()


def test_what_is_no_study_is_not_opened(tmp_path):
    with pytest.raises(InputError, match="not a study"):
        Study.open(tmp_path)
    (tmp_path / "study.json").write_text('{"format_version": 1, "surprise": true}')
    with pytest.raises(InputError, match=r"study.json: .*damaged or of another slotune version"):
        Study.open(tmp_path)


def test_a_damaged_database_is_one_clear_error(tmp_path):
    Study.create(tmp_path, ASKED).close()
    (tmp_path / "trials.sqlite").write_bytes(b"garbage" * 1000)
    for _ in range(2):  # nor is the folder held by the first attempt
        with pytest.raises(SlotuneError, match=r"trials.sqlite: damaged .* tune again in a new folder"):
            Study.open(tmp_path, writable=True)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        *(("metrics", text) for text in ('{"a":', "[1]", '{"a": "b"}', '{"a": 1, "b": "c"}')),
        *(("settings", "7"), ("details", "null")),
    ],
)
def test_a_damaged_row_is_one_clear_error(tmp_path, column, text):
    with Study.create(tmp_path, ASKED) as study:
        study.add(RAN)
    with sqlite3.connect(tmp_path / "trials.sqlite") as database:
        database.execute(f"UPDATE trials SET {column} = ?", (text,))
    database.close()
    with Study.open(tmp_path) as study, pytest.raises(SlotuneError, match=r"trials.sqlite: damaged"):
        study.trials()


def test_a_study_that_was_not_tuned_to_the_end_recommends_nothing(tmp_path):
    Study.create(tmp_path, ASKED).close()
    with pytest.raises(SlotuneError, match="no recommendation in it yet; run `slotune tune` on it to the end"):
        read_recommendation(tmp_path)


def test_only_one_process_writes(tmp_path):
    with Study.create(tmp_path, ASKED), pytest.raises(InputError, match="another slotune is writing"):
        Study.open(tmp_path, writable=True)
    Study.open(tmp_path, writable=True).close()


def test_reading_while_another_writes(tmp_path):
    with Study.create(tmp_path, ASKED) as writer, Study.open(tmp_path) as reader:
        writer.add(RAN)
        assert len(reader.trials()) == 1


def test_a_study_can_be_read_where_nothing_can_be_written(tmp_path):
    with Study.create(tmp_path / "s", ASKED) as study:
        study.add(RAN)
    copy = shutil.copytree(tmp_path / "s", tmp_path / "copy")
    copy.chmod(0o555)
    with Study.open(copy) as study:
        assert len(study.trials()) == 1


def test_a_study_on_a_read_only_disk_is_read_without_files_beside_it(tmp_path, monkeypatch):
    with Study.create(tmp_path / "s", ASKED) as study:
        study.add(RAN)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with Study.open(tmp_path / "s") as study:
        assert len(study.trials()) == 1
        assert not list((tmp_path / "s").glob("*-shm"))


def test_a_link_stays_one_and_what_is_no_file_is_written_to(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    write_text(tmp_path / "pipe", "through")
    assert reader.communicate()[0] == "through"
    assert (tmp_path / "pipe").is_fifo()
    read, write = os.pipe()
    write_text(Path(f"/proc/self/fd/{write}"), "nameless")  # as a shell's >(...) is
    assert os.read(read, 99) == b"nameless"
    os.close(read)
    os.close(write)


KILLED = """
import sys, time
from pathlib import Path
from slotune.tuner.study.study import Asked, Study, Trial
asked = Asked.model_validate_json(sys.argv[2])
with Study.create(Path(sys.argv[1]), asked) as study:
    for i in range(1000):
        study.add(Trial({"max_num_seqs": i}, {"p99_ttft_ms": float(i)}))
        print(i, flush=True)
        time.sleep(0.001)
"""


def test_a_killed_study_keeps_every_trial_it_told_of(tmp_path):
    folder = tmp_path / "s"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), ASKED.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        told = [int(process.stdout.readline()) for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().split()]
    with Study.create(folder, ASKED) as study:
        kept = [trial.settings["max_num_seqs"] for trial in study.trials()]
    assert kept[: len(told)] == told


FULL = """
import resource, sys
from pathlib import Path
from slotune.errors import SlotuneError
from slotune.tuner.study.study import Asked, Study, Trial
with Study.create(Path(sys.argv[1]), Asked.model_validate_json(sys.argv[2])) as study:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # a disk that takes no more
    try:
        for i in range(1000):
            study.add(Trial({"max_num_seqs": i}, {"p99_ttft_ms": float(i)}, message="x" * 500))
    except SlotuneError as error:
        print(i, error)
"""


def test_a_study_that_could_not_be_begun_is_not_said_to_go_on(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SlotuneError, match=r"the study cannot be kept: Not a directory$"):
        Study.create(tmp_path / "file" / "study", ASKED)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path / "s"), ASKED.model_dump_json()]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.count("\n") == 1
    added, message = told.split(" ", 1)
    assert "the study cannot be kept" in message and "run again to go on" in message
    with Study.create(tmp_path / "s", ASKED) as study:
        assert [trial.settings["max_num_seqs"] for trial in study.trials()] == list(range(int(added)))
        study.add(RAN)


def test_numbers_without_a_value_are_kept_also_inside_details(tmp_path):
    with Study.create(tmp_path / "study", ASKED) as study:
        told = {"predicted_at_speed": {"mean_tpot_ms": math.nan, "mean_ttft_ms": 3.0}}
        study.add(Trial({}, {"mean_tpot_ms": math.nan}, where="hardware", details=told))
        (kept,) = study.trials("hardware")
    assert kept.details == {"predicted_at_speed": {"mean_tpot_ms": None, "mean_ttft_ms": 3.0}}
    assert math.isnan(kept.metrics["mean_tpot_ms"])
