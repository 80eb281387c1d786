"""`arpo-verl measure` on the record of a run, with words that are wrong, and the command that it would start."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from recorded_run import write_run

from arpo_verl import command_line
from arpo_verl.measure import live
from arpo_verl.measure.live import RunFailed, grow_trees, run_command
from arpo_verl.measure.live_settings import LiveOptions, WrongWords, training_command
from arpo_verl.preflight.compose import PRESET, compose_config

WORDS = ("platform=cpu", "actor_rollout_ref.rollout.n=8", "data.train_batch_size=16")


def call(*words) -> int:
    with pytest.raises(SystemExit) as ended:
        command_line.main(["measure", *map(str, words)])
    return ended.value.code


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), steps=2, prompts=12)


def test_a_record_is_measured_and_numbers_and_figure_are_written(record, tmp_path, capsys):
    assert call(record, "--json", tmp_path / "m.json", "--figure", tmp_path / "m.svg") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("24 prompts with up to 8 leaves")
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["prompts"] == 24 and found["recommendation"]["verdict"] in ("branch", "do not branch", "not decided")
    tools = {tool["tool"]: tool for tool in found["entropies"]["tools"]}
    # Entropies are drawn with the mean 1/2, before and after results alike.
    assert tools["search"]["before"]["value"] == pytest.approx(0.5, abs=0.1)
    assert tools["search"]["change"]["value"] == pytest.approx(0, abs=0.1)
    assert "cost in sampled tokens" in (tmp_path / "m.svg").read_text()


def test_the_last_steps_alone_are_measured(record, capsys):
    assert call(record, "--last", "1") == 0
    assert capsys.readouterr().out.startswith("12 prompts")


def test_what_is_wrong_is_said_without_a_traceback(record, tmp_path, capsys):
    for words, code, said in [
        ((tmp_path / "nowhere",), 1, "is not there"),
        ((record, record), 2, "2 runs; expected one"),
        ((record, "--figure", "m.jpg"), 2, "expected a file that ends in .svg or .png"),
        ((record, "--json", tmp_path / "no" / "m.json"), 2, "is not there; expected the folder of m.json"),
        ((record, "--last", "0"), 2, "--last=0; expected 1 or more"),
        (("arpo.no_such=1",), 2, "no_such"),
        ((*WORDS, "--prompts", "3"), 2, "--prompts=3; expected 8 at least"),
        ((*WORDS, "somewhere"), 2, "'somewhere' is no override"),
        ((*WORDS, "actor_rollout_ref.rollout.n=2"), 2, "expected 4 at least"),
    ]:
        assert call(*words) == code, words
        error = capsys.readouterr().err
        assert said in error and error.startswith("arpo-verl measure: ") and "Traceback" not in error


def test_too_few_prompts_are_said_to_be(tmp_path, capsys):
    assert call(write_run(tmp_path, steps=1, prompts=3)) == 1
    assert "3 prompts have a leaf with a reward; expected 8 at least" in capsys.readouterr().err


def test_the_command_composes_and_updates_nothing(tmp_path):
    words = (*WORDS, "arpo.rule=sample", "+arpo.rule_kwargs.rounds=2", "arpo.preset=at2po", "trainer.save_freq=5")
    command = training_command(LiveOptions(words, *PRESET, prompts=40), tmp_path / "it's here")
    assert command[:3] == [sys.executable, "-m", "verl.trainer.main_ppo"]
    config = compose_config(*PRESET, command[command.index("--config-name") + 2 :])
    assert config.trainer.total_training_steps == 3  # of 16 prompts
    assert config.trainer.critic_warmup > 3 and config.trainer.save_freq == -1
    assert config.trainer.rollout_data_dir == str(tmp_path / "it's here" / "rollouts")
    arpo = OmegaConf.to_container(config.arpo)
    assert arpo["preset"] is None and arpo["entropy_weight"] == 0 and arpo["initial_rollouts"] == 4
    assert arpo["rule_kwargs"] == {} and arpo["advantage_kwargs"] == {}


def script(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "run.py"
    file.write_text(text)
    return [sys.executable, str(file)]


def test_a_run_that_fails_is_told_with_the_end_of_its_log_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "training_command", lambda *_: script(tmp_path, "raise SystemExit('no memory left')"))
    monkeypatch.setattr(live.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RunFailed, match=r"(?s)ended with code 1 and without a record.*no memory left"):
        grow_trees(LiveOptions(WORDS, *PRESET, prompts=64), print)
    assert [file.name for file in tmp_path.iterdir()] == ["run.py"]


def test_a_run_is_read_its_stages_are_told_and_its_files_are_kept_on_request(tmp_path, record, monkeypatch):
    kept = tmp_path / "kept"
    text = (
        f"import shutil, time; print('all initialize finished', flush=True); time.sleep(1.2)\n"
        f"shutil.copytree({str(record / 'rollouts')!r}, {str(kept / 'rollouts')!r})"
    )
    monkeypatch.setattr(live, "training_command", lambda *_: script(tmp_path, text))
    said: list[str] = []
    prompts = grow_trees(LiveOptions(WORDS, *PRESET, prompts=64, keep=kept), said.append)
    assert len(prompts) == 24
    timed = [any(segment.times for segment in prompt.segments) for prompt in prompts]
    assert timed == [False] * 12 + [True] * 12  # the first step's requests waited for a cold server
    assert [line.split(": ")[1] for line in said] == ["the inference server is up; leaves grow", "24 trees"]
    with pytest.raises(WrongWords, match="is not empty"):
        grow_trees(LiveOptions(WORDS, *PRESET, prompts=64, keep=kept), print)


def test_no_process_of_a_run_stays(tmp_path):
    text = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(1.5)"
    )
    assert run_command(script(tmp_path, text), tmp_path / "log", print) == 0
    pid = int((tmp_path / "log").read_text())
    assert has_ended(pid)


def test_a_measurement_that_is_asked_to_end_leaves_no_process(tmp_path):
    waits = script(tmp_path, "import os, time\nprint(os.getpid(), flush=True); time.sleep(600)")
    log = tmp_path / "log"
    code = f"from arpo_verl.measure.live import *; run_command({waits!r}, Path({str(log)!r}), print)"
    measuring = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if log.is_file() and log.read_text().endswith("\n"):
                break
            time.sleep(0.1)
        measuring.terminate()
        assert measuring.wait(60) != 0
    finally:
        measuring.kill()
    assert has_ended(int(log.read_text()))


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for somebody to look at its exit code."""
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"
