"""The scripts check every argument before anything starts, and say why a part of them failed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from quickstart import TrainingRun, check_overrides

RECIPES = Path(__file__).parents[2] / "recipes"


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without anything that a recipe reads, and settings."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    return kept | settings


WORDS = [
    *(("tiny_world.sh", {"ALGORITHM": word}, "ALGORITHM=") for word in ("arop", "ARPO", "gae", "arpo grpo")),
    *(
        ("tiny_world.sh", {name: word}, f"{name}={word}; expected a whole number of at least 1")
        for name in ("COLD_START_STEPS", "STEPS", "N")
        for word in ("0", "abc", "4x0", "-2", "1e3", "2 ", "007", "99999999999999999999")
    ),
    ("quickstart.sh", {"ALGORITHM": "ppo"}, "ALGORITHM=ppo; expected arpo or grpo"),
    ("quickstart.sh", {"STEPS": "0"}, "STEPS=0; expected a whole number of at least 1"),
    ("quickstart.sh", {"SEED": "a"}, "SEED=a; expected a whole number of at least 0"),
    ("compare.sh", {"SEEDS": "a"}, "SEEDS has a; expected whole numbers of at least 0"),
    ("compare.sh", {"SEEDS": "0 1 1"}, "SEEDS has 1 twice; expected each once"),
    ("compare.sh", {"SEEDS": "0,1"}, "SEEDS has 0,1; expected whole numbers"),
    ("compare.sh", {"SEEDS": " "}, "SEEDS is empty; expected whole numbers"),
    ("compare.sh", {"ARMS": "grpo arpo"}, "ARMS has arpo; expected some of a2fm, a2tgpo, aepo, ampo, "),
    ("compare.sh", {"ARMS": "grpo grpo"}, "ARMS has grpo twice; expected each once"),
    ("compare.sh", {"STEPS": "4x0"}, "STEPS=4x0; expected a whole number of at least 1"),
    ("cold_start.sh", {"TRAIN_FILES": ""}, "TRAIN_FILES is not set"),
    ("cold_start.sh", {"SYNTAX": "tag"}, "SYNTAX=tag; expected tags or native"),
    ("cold_start.sh", {"LORA_RANK": "r"}, "LORA_RANK=r; expected a whole number of at least 0"),
    ("cold_start.sh", {"TOTAL_STEPS": "1.5"}, "TOTAL_STEPS=1.5; expected a whole number of at least 1, or null"),
    ("cold_start.sh", {"TRUNCATION": "cut"}, "TRUNCATION=cut; expected error, right or left"),
    ("cold_start.sh", {"MAX_LENGTH": "32768"}, "MAX_TOKEN_LEN_PER_GPU=16384; expected at least MAX_LENGTH=32768"),
]


@pytest.mark.parametrize(("script", "settings", "message"), WORDS)
def test_a_script_checks_every_word_before_it_installs_or_makes_anything(script, settings, message, tmp_path):
    shutil.copytree(RECIPES, tmp_path / "recipes")  # where nothing is installed, and where anything made would be seen
    shutil.copytree(RECIPES.parent / "arpo_verl" / "presets", tmp_path / "arpo_verl" / "presets")
    before = sorted(tmp_path.rglob("*"))
    variables = environment(PYTHON="false") | settings
    command = ["bash", str(tmp_path / "recipes" / script)]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=tmp_path, timeout=20)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{script}: {message}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "override", ["arpo.rule=treshold", "algorithm.adv_estimator=apro", "actor_rollout_ref.rollout.n=1", "no.such.key=1"]
)
def test_a_preset_makes_no_world_for_overrides_that_can_not_work(override, tmp_path):
    settings = {
        "PRESET": "tiny",
        "WORLD": str(tmp_path / "world"),
        "PYTHON": sys.executable,
        "OUTPUT": str(tmp_path / "o"),
    }
    command = ["bash", str(RECIPES / "run_qwen2_5_3b_reasoning_vllm.sh"), override]
    ended = subprocess.run(command, env=environment(**settings), capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert override.split("=")[0].split(".")[-1] in ended.stderr and "nothing was made" in ended.stderr
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize(
    "override", ["arpo.rule=treshold", "algorithm.adv_estimator=ARPO", "arpo.initial_rollouts=9", "a b"]
)
def test_the_quickstart_makes_no_world_for_overrides_that_can_not_work(override, tmp_path):
    run = TrainingRun("arpo", 0, 1, tmp_path / "output", [override])
    with pytest.raises(SystemExit, match=r"^output: .*"):
        check_overrides([run])
    assert not list(tmp_path.iterdir())


def test_the_quickstarts_own_overrides_pass():
    check_overrides(
        [
            TrainingRun("grpo", 0, 1, Path("/nowhere"), []),
            TrainingRun("arpo", 0, 1, Path("/nowhere"), ["arpo.rule=threshold"]),
        ]
    )


@pytest.mark.parametrize(("command", "code"), [("echo first; echo the reason; exit 3", 3), ("kill -9 $$", 137)])
def test_a_failing_part_shows_its_last_lines_and_where_its_log_is(command, code, tmp_path):
    script = f"source {RECIPES}/checks.sh; logged {tmp_path}/part.log bash -c '{command}'; echo goes on"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment())
    assert ended.returncode == code
    assert ended.stderr.splitlines()[-1] == f"ended with code {code}; its log: {tmp_path}/part.log"
    assert ("the reason" in ended.stderr) == (code == 3)
    assert "goes on" not in ended.stdout


def test_a_failing_part_of_the_tiny_world_is_named(tmp_path):
    """On a disk that can't be written no folder can be made for the log."""
    (tmp_path / "world").write_text("a file, where a folder is needed")
    settings = environment(WORLD=str(tmp_path / "world"), COLD_START_STEPS="1", STEPS="1", N="1")
    ended = subprocess.run(["bash", str(RECIPES / "tiny_world.sh")], env=settings, capture_output=True, text=True)
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[-1].startswith("tiny_world.sh: ended with code")
    assert "in: data: an untrained model" in ended.stderr.splitlines()[-1]
