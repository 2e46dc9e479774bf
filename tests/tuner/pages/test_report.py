"""The page says what the study found, escapes what people wrote, loads nothing, and is drawn by a browser."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slotune.errors import InputError, SlotuneError
from slotune.tuner.hardware.shortlist import shortlist
from slotune.tuner.pages.provenance import provenance
from slotune.tuner.pages.report import _sentence, write_report
from slotune.tuner.study.study import Study, Trial
from slotune.tuner.study.task import load_task
from slotune.tuner.validate import validated

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HEADLESS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def page(searched: Path, fake_engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study that was validated; one configuration failed."""
    study = shutil.copytree(searched, tmp_path_factory.mktemp("report") / "study <1> & co")
    with Study.open(study, writable=True) as opened:
        task = load_task(opened.asked)
        opened.add(Trial({"max_num_seqs": 3}, None, "refused", "<b>because</b>"))
        bad = shortlist(opened, task)[0]
        engine = fake_engine(task, fails=lambda settings: "out-of-memory" if settings == bad else None)
        validated(opened, task, engine, top=2, repeats=3)
    return write_report(study, jobs=1)


@pytest.fixture(scope="session")
def text(page: Path) -> str:
    return page.read_text()


def words_of(html: str) -> str:
    """What a reader sees, without the markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)))


def test_the_answer_comes_first(text: str):
    words = words_of(text)
    assert 0 < words.index("both targets are met") < words.index("Predicted and measured") < words.index("Trials")
    assert "Meets the targets on average and the default does not; " in words
    assert "step times come from a formula, not from a measurement" in words
    assert "vllm serve org/model --" in words


def test_the_notes_are_of_what_is_recommended(searched: Path):
    with Study.open(searched) as study:
        profile = load_task(study.asked).profile
        notes = provenance(study, profile, profile.trust({"quantization": "fp8"}))["notes"]
    assert notes[0].startswith("quantization=fp8: ")


def test_everything_is_there(text: str):
    words = words_of(text)
    for expected in (
        *("Predicted and measured", "Latency against rate", "What each setting does", "Where this comes from"),
        *("p99 ITL", "error of prediction", "against default", "worst latency / target", "17 configurations"),
        *("is marked: the measurements decided", "it said out-of-memory", "slotune tune --profile", "SMAC 2"),
    ):
        assert expected in words, expected
    assert text.count("<svg") == 4


def test_what_people_wrote_is_escaped(text: str):
    assert "study &lt;1&gt; &amp; co" in text
    assert "&lt;b&gt;because&lt;/b&gt;" in text
    assert "<b>" not in text


def test_nothing_is_loaded_or_run(text: str):
    assert "<script" not in text
    assert "default-src 'none'" in text
    links = re.findall(r'(?:src|href)="([^"]*)"', text) + re.findall(r"url\(([^)]*)\)", text)
    assert all(link.startswith("#") for link in links)


def test_the_same_study_gives_the_same_page(page: Path, text: str, tmp_path: Path):
    assert write_report(page.parent, tmp_path / "new" / "again.html", jobs=1).read_text() == text


def test_a_browser_draws_it(page: Path, tmp_path: Path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser on the PATH, one of {', '.join(BROWSERS)}")
    where = page.as_uri()
    words = [browser, *HEADLESS, f"--user-data-dir={tmp_path / 'browser'}"]
    words += ["--enable-logging=stderr"]
    shown = subprocess.run([*words, "--dump-dom", where], capture_output=True, text=True, check=True, timeout=120)
    assert "both targets are met" in shown.stdout
    assert shown.stdout.count("<svg") == 4
    assert "CONSOLE" not in shown.stderr  # a refused load or a broken style would be told there
    printed = tmp_path / "page.pdf"
    subprocess.run([*words, f"--print-to-pdf={printed}", where], check=True, timeout=120, capture_output=True)
    assert printed.read_bytes().startswith(b"%PDF")


def test_the_trials_are_those_that_the_search_counts(searched: Path, tmp_path: Path):
    study = shutil.copytree(searched, tmp_path / "study")
    before = words_of(write_report(study, jobs=1).read_text())
    with Study.open(study, writable=True) as opened:
        best = next(trial for trial in opened.trials("simulation") if trial.settings.get("max_num_seqs"))
        opened.add(Trial(best.settings | {"long_prefill_token_threshold": 7000}, best.metrics, origin="plain"))
    after = words_of(write_report(study, jobs=1).read_text())
    count = re.compile(r"\d+ configurations simulated: \d+ meet every target")
    assert count.findall(before) == count.findall(after)
    plain = "plain: one without its changes that had no effect"
    assert plain not in before and plain in after
    assert "the recommended one is marked: it decided" in after


def test_the_trials_are_counted_and_what_decided_is_said(page: Path, text: str, tmp_path: Path):
    with Study.open(page.parent) as opened:
        asked, trials = opened.asked, opened.trials("simulation")
        meeting = sum(load_task(asked).objective.meets(trial.metrics or {}) for trial in trials)
    assert f"17 configurations simulated: {meeting} meet every target, 1 cannot run. Best first" in words_of(text)
    best, default = trials[1], trials[0]
    with Study.create(tmp_path / "goal", asked.model_copy(update={"slos": (), "maximize": ("throughput",)})) as goal:
        goal.add(Trial(default.settings, default.metrics))
        goal.add(Trial(best.settings, best.metrics))
    assert "2 configurations simulated: 0 cannot run." in words_of(write_report(tmp_path / "goal", jobs=1).read_text())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("p99:ttft:700 is met in none", "p99:ttft:700 is met in none."),
        ("mean_ttft_ms goes from 1 to 2", "mean_ttft_ms goes from 1 to 2."),
        ("the default's runs differ", "The default's runs differ."),
        ("default: 3 were not answered", "Default: 3 were not answered."),
    ],
)
def test_a_line_becomes_a_sentence_and_what_is_typed_stays(line: str, told: str):
    assert _sentence(line) == told


def test_a_study_without_trials_has_nothing_to_report(searched: Path, tmp_path: Path):
    study = shutil.copytree(searched, tmp_path / "study")
    (study / "trials.sqlite").unlink()
    (study / "trials.sqlite").touch()
    with pytest.raises(SlotuneError, match="no trial in it yet"):
        write_report(study)


def test_a_profile_that_changed_is_not_reported_on(searched: Path, tmp_path: Path):
    folder = shutil.copytree(searched.parent, tmp_path / "all")
    asked = (folder / "study" / "study.json").read_text().replace(str(searched.parent), str(folder))
    (folder / "study" / "study.json").write_text(asked)
    (folder / "profile" / "NOTES").write_text("measured on Monday")
    write_report(folder / "study", jobs=1)
    (folder / "profile" / "profile.json").write_text((folder / "profile" / "profile.json").read_text() + "\n")
    with pytest.raises(InputError, match="the profile changed"):
        write_report(folder / "study")
    shutil.rmtree(folder / "profile")
    with pytest.raises(InputError, match="profile: the study's profile is not there any more: move it back, or tell"):
        write_report(folder / "study")


def test_a_study_in_which_no_request_is_served_in_time_has_a_report(searched: Path, tmp_path: Path):
    study = shutil.copytree(searched, tmp_path / "study")
    with Study.open(study, writable=True) as opened:
        for trial in opened.trials("simulation"):
            lost = dict(trial.metrics or {}) | {"failed": 70.0, "completed": 10.0}
            opened.add(Trial(trial.settings, lost, origin=trial.origin))
    assert "no configuration meets every target" in write_report(study, jobs=1).read_text()


@pytest.mark.parametrize(
    ("share", "headline", "row"),
    [
        (1.0, "all 3 targets are met", "good requests ≥ 99% 100.0% ✓"),
        (0.97, "no configuration meets every target", "good requests ≥ 99% 97.0% ✗"),
    ],
)
def test_goodput_beside_other_targets_is_one(searched: Path, tmp_path: Path, share: float, headline: str, row: str):
    with Study.open(searched) as opened:
        asked = opened.asked.model_copy(update={"goodput": {"ttft": 1e6}})
        trials = opened.trials("simulation")
    with Study.create(tmp_path / "good", asked) as opened:
        for trial in trials:
            metrics = dict(trial.metrics or {})
            opened.add(Trial(trial.settings, metrics | {"request_goodput": share * metrics["request_throughput"]}))
    words = words_of(write_report(tmp_path / "good", jobs=1).read_text())
    assert headline in words and row in words


@pytest.mark.parametrize(
    ("maximize", "told"), [((), "Predicted: p99 TTFT "), (("throughput",), "Predicted: output thro")]
)
def test_a_throughput_that_is_a_goal_is_told_before_the_latencies(
    searched: Path, tmp_path: Path, maximize: tuple[str, ...], told: str
):
    with Study.open(searched) as opened:
        asked, default = opened.asked.model_copy(update={"maximize": maximize}), opened.trials("simulation")[0]
    metrics = dict(default.metrics or {})
    better = metrics | {"output_throughput": 2 * metrics["output_throughput"], "p99_ttft_ms": 1.0}
    with Study.create(tmp_path / "study", asked) as opened:
        opened.add(Trial(default.settings, metrics | {"p99_ttft_ms": 2.0, "p99_itl_ms": 1e6}))
        opened.add(Trial({**default.settings, "max_num_seqs": 16}, better | {"p99_itl_ms": 1.0}))
    assert told in words_of(write_report(tmp_path / "study", jobs=1).read_text())


@pytest.mark.parametrize("kept", [True, False])
def test_a_default_that_is_kept_is_not_compared_with_itself(searched: Path, tmp_path: Path, kept: bool):
    with Study.open(searched) as opened:
        asked, default = opened.asked, opened.trials("simulation")[0]
    metrics = dict(default.metrics or {})
    with Study.create(tmp_path / "study", asked) as opened:
        opened.add(Trial(default.settings, metrics | {"p99_ttft_ms": 1.0, "p99_itl_ms": 1.0 if kept else 1e6}))
        opened.add(Trial({**default.settings, "max_num_seqs": 16}, metrics | {"p99_ttft_ms": 1.0, "p99_itl_ms": 1e5}))
    words = words_of(write_report(tmp_path / "study", jobs=1).read_text())
    assert ("Keep the default settings" in words) == kept
    assert ("Predicted: " in words) != kept


def test_goodput_alone_is_a_goal_that_no_trial_misses(searched: Path, tmp_path: Path):
    with Study.open(searched) as opened:
        asked = opened.asked.model_copy(update={"slos": (), "goodput": {"ttft": 0.001}})
        trials = opened.trials("simulation")
    with Study.create(tmp_path / "good", asked) as opened:
        for trial in trials:
            opened.add(Trial(trial.settings, dict(trial.metrics or {}) | {"request_goodput": 1.0}))
    text = write_report(tmp_path / "good", jobs=1).read_text()
    assert "worst latency / target" not in text and 'class="missed"' not in text


def test_what_misses_a_target_is_called_the_nearest_throughout(searched: Path, tmp_path: Path):
    with Study.open(searched) as opened:
        asked, default = opened.asked, opened.trials("simulation")[0]
    metrics = dict(default.metrics or {})
    with Study.create(tmp_path / "study", asked) as opened:
        opened.add(Trial(default.settings, metrics | {"p99_itl_ms": 1e6}))
        opened.add(Trial({**default.settings, "max_num_seqs": 16}, metrics | {"p99_itl_ms": 1e5}))
    words = words_of(write_report(tmp_path / "study", jobs=1).read_text())
    assert "this one comes nearest" in words and "nearest, predicted" in words and "the nearest one is marked" in words
    assert "recommended" not in words


def test_what_the_engine_left_unanswered_is_told(searched: Path, fake_engine: Any, tmp_path: Path):
    study = shutil.copytree(searched, tmp_path / "study")
    with Study.open(study, writable=True) as opened:
        task = load_task(opened.asked)
        validated(opened, task, fake_engine(task, unanswered=3), top=1, repeats=2)
    words = words_of(write_report(study, jobs=1).read_text())
    assert "6 of 160 requests were not answered, the first because: 400 no" in words
    assert "Measured: org/model, vLLM 0.32.0" in words


def test_nothing_is_kept_where_nothing_ran_on_the_engine(searched: Path, fake_engine: Any, tmp_path: Path):
    study = shutil.copytree(searched, tmp_path / "study")
    with Study.open(study, writable=True) as opened:
        task = load_task(opened.asked)
        validated(opened, task, fake_engine(task, fails=lambda settings: "crashed"), top=1, repeats=1)
    words = words_of(write_report(study, jobs=1).read_text())
    assert "The runs on the engine do not decide. By prediction alone: change" in words
