"""`arpo-verl eval run` in processes of its own, interrupted: what is finished stays, and the end is the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from completion_server import ModelServer, serving
from evaluated_world import evaluate, make_evaluated_world, untimed, words

from arpo_verl.evaluation.records import read_run

pytestmark = pytest.mark.slow

ROWS = 72


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_evaluated_world(tmp_path_factory.mktemp("evaluated-world"), ROWS)


@pytest.fixture(autouse=True)
def search_corpus(world, monkeypatch):
    monkeypatch.setenv("ARPO_SEARCH_CORPUS", str(world / "corpus.jsonl"))


def start(world: Path, server: ModelServer, out: Path) -> subprocess.Popen:
    script = "from arpo_verl.command_line import main; main()"
    command = [sys.executable, "-c", script, *words(world, server, out, "--concurrency", "3")]
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stderr=log, stdout=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(process: subprocess.Popen, path: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while lines(path) < count and time.monotonic() < deadline:
        assert process.poll() is None, path.with_suffix(".log").read_text()
        time.sleep(0.01)
    assert lines(path) >= count


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.nightly)])
def test_a_run_that_is_killed_again_and_again_ends_with_the_file_of_one_that_was_not(world, tmp_path, kills):
    out, whole = tmp_path / "run.jsonl", tmp_path / "whole.jsonl"
    generator = random.Random(0)
    with serving() as server:
        assert evaluate(*words(world, server, whole)) == 0
        server.delay_seconds = 0.4  # so slow that not all is done before the last kill, however fast the start is
        for kill in range(kills):
            process = start(world, server, out)
            if kill % 5:
                # At any moment of its work: some lines on, and some part of a request later.
                wait_for_lines(process, out, lines(out) + generator.randint(1, 4))
                time.sleep(generator.uniform(0, 0.1))
            else:
                time.sleep(generator.uniform(0, 8))  # at any moment of its start
            process.kill()
            assert process.wait() == -signal.SIGKILL
        done = len(read_run(out).samples)
        assert kills // 2 <= done < ROWS
        server.delay_seconds = 0.0
        process = start(world, server, out)
        assert process.wait(300) == 0, out.with_suffix(".log").read_text()
    assert untimed(out) == untimed(whole)
    keys = [one.key for one in read_run(out).samples]
    assert len(set(keys)) == len(keys) == ROWS


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_end_says_how_to_go_on(world, tmp_path, capsys, end):
    out = tmp_path / "run.jsonl"
    with serving(delay_seconds=0.2) as server:
        process = start(world, server, out)
        wait_for_lines(process, out, 5)
        # A second process on the same file stops at once.
        assert evaluate(*words(world, server, out, "--concurrency", "3")) == 1
        assert "is being written to by another evaluation" in capsys.readouterr().err
        process.send_signal(end)
        assert process.wait(30) == 128 + end
    said = out.with_suffix(".log").read_text()
    done = len(read_run(out).samples)
    assert f"interrupted by {end.name}" in said
    assert f"{out} has {done} of {ROWS} samples; {ROWS - done} are missing: the same command goes on" in said
