"""--engine-config: what commands say of a file that `vllm serve --config` would read otherwise."""

import json
import os
import threading

import pytest

COMMANDS = [["simulate"], ["screen"], ["tune"], ["plan"], ["profile", "measure"], ["profile", "import", "silicon"]]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "engine.yaml"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_once_what_a_false_in_the_file_would_not_turn_off(slotune, file, command):
    file.write_text("enable-prefix-caching: false\n")
    lines = slotune(*command, "--engine-config", file).err.splitlines()
    warning = f"Warning: {file}: enable-prefix-caching: false: `vllm serve --config` passes over false and leaves it on"
    assert [line.startswith(warning) for line in lines].count(True) == 1


def test_it_is_simulated_as_off_all_the_same(slotune, files, file):
    file.write_text("enable-prefix-caching: false\n")
    ran = slotune("simulate", *files, "--engine-config", file, "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["engine"]["enable_prefix_caching"] is False
    assert "no-enable-prefix-caching: true" in ran.err


def test_a_file_that_can_be_read_but_once_is_read(slotune, files, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("max-num-seqs: 3\n",))
    writer.start()
    ran = slotune("simulate", *files, "--engine-config", pipe, "--json")
    writer.join()
    assert ran.code == 0 and json.loads(ran.out)["engine"]["max_num_seqs"] == 3


def test_what_the_file_says_of_the_server_is_told_to_be_missing_and_its_values_are_not(slotune, files, file):
    file.write_text("api-key: secret\napi-server-count: 8\nmax-num-seqs: 8\n")
    ran = slotune("simulate", *files, "--engine-config", file)
    assert ran.code == 0
    assert f"Note: {file}: the server's own, not simulated: api-key, api-server-count\n" in ran.err
    assert "secret" not in ran.err
    file.write_text("max-num-seqs: 8\n")
    assert "the server's own" not in slotune("simulate", *files, "--engine-config", file).err


def test_best_yaml_and_what_is_exported_name_what_they_lack_of_the_server(slotune, files, file, tmp_path):
    file.write_text("api-key: secret\nport: 1\nmax-num-seqs: 8\n")
    words = ("--slo", "p99:tpot:100", "--trials", 1, "--jobs", 1, "--out", tmp_path / "study")
    ran = slotune("tune", *files, "--engine-config", file, *words)
    assert "the server's own, not simulated and not taken over into best.yaml: api-key, port\n" in ran.err
    lacks = "# given for the server and not in this file: api-key, port\n"
    assert lacks in (tmp_path / "study" / "best.yaml").read_text()
    exported = slotune("export", tmp_path / "study", "--model", "m").out
    assert lacks in exported and "secret" not in exported
