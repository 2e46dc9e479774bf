"""Files that commands write: never one that is read, never one that cannot be written."""

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("simulate", "--requests-out", "t.jsonl"), "--requests-out t.jsonl: is also an input; choose another name"),
        (("simulate", "--steps-out", "t.jsonl"), "--steps-out t.jsonl: is also an input"),
        (("simulate", "--steps-out", "p/profile.json"), "--steps-out p/profile.json: is also an input"),
        (("simulate", "--requests-out", "e.yaml", "--engine-config", "e.yaml"), "e.yaml: is also an input"),
        (("simulate", "--requests-out", "o", "--steps-out", "o"), "--steps-out o: is also what --requests-out writes"),
        (("screen", "--configs", "e.yaml", "--out", "t.jsonl"), "--out t.jsonl: is also an input"),
        (("screen", "--configs", "e.yaml", "--out", "link"), "--out link: is also an input"),
        (("screen", "--configs", "e.yaml", "--out", "p/profile.json"), "p/profile.json: is also an input"),
        (("trace", "make", "--rate", 1, "--like", "t.jsonl", "--out", "t.jsonl"), "t.jsonl: is also an input"),
    ],
)
def test_no_file_that_is_read_is_written_over(slotune, files, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.yaml").write_text("max_num_seqs: 8\n")
    (tmp_path / "link").symlink_to("e.yaml")
    before = (tmp_path / "t.jsonl").read_text()
    ran = slotune(*words, *(files if words[0] != "trace" else ()))
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err and ran.err.count("\n") == 1
    assert (tmp_path / "t.jsonl").read_text() == before
    assert (tmp_path / "e.yaml").read_text() == "max_num_seqs: 8\n"


@pytest.mark.parametrize("folder", ["none", "t.jsonl"])
def test_an_output_that_cannot_be_written_is_told_before_the_work(slotune, files, tmp_path, folder):
    (tmp_path / "grid.yaml").write_text("max_num_seqs: [8]\n")
    lost = tmp_path / folder / "o"
    for words in (("simulate", "--steps-out", lost), ("screen", "--configs", tmp_path / "grid.yaml", "--out", lost)):
        ran = slotune(*words, *files)
        assert (ran.code, ran.out) == (2, "")
        assert f"{lost.parent} is not a folder that can be written to" in ran.err and ran.err.count("\n") == 1


def test_no_output_hides_what_is_bundled_under_its_name(slotune, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = slotune("simulate", *files[:2], "--trace", "chat", "--requests-out", "chat")
    assert ran.code == 2 and "chat: would hide the bundled one of that name; choose another name" in ran.err


def test_an_output_in_a_loop_of_links_is_one_line(slotune, files, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    ran = slotune("simulate", *files, "--requests-out", tmp_path / "loop")
    assert ran.code == 1 and "loop: cannot be written: Too many levels of symbolic links" in ran.err


def test_outputs_may_both_go_nowhere(slotune, files):
    assert slotune("simulate", *files, "--requests-out", "/dev/null", "--steps-out", "/dev/null").code == 0
