"""Every preset trains two real steps with unmodified verl, Ray, TransferQueue, FSDP2 and vLLM, started once for all.

The suite trains a choice of them, `tests/nightly.sh` the others.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from asked import given, with_solutions
from quickstart import TrainingRun
from runs import LEAVES, PROMPTS, stock_overrides

from arpo_verl.presets import load_preset, preset_names

pytestmark = [pytest.mark.slow, pytest.mark.engine]

STEPS = 2
TESTS = Path(__file__).parents[1]
AVAILABLE = [name for name in preset_names() if not load_preset(name).unavailable]
IN_SUITE = {
    *("aepo", "ampo", "arpo_hard", "at2po", "bapo", "expected_variance", "fapo", "ghpo", "gigpo", "igpo", "mt_grpo"),
    *("spear", "treerl", "vineppo"),
}
"""Presets that differ in their rules, roots, advantages, losses, replay and signals."""
FEW_LEAVES: dict[str, list[str]] = {
    "at2po": ["+arpo.rule_kwargs={forks:1}"],
    "treerl": ["+arpo.rule_kwargs={forks:2}"],
    "deep_grpo": ["+arpo.rule_kwargs={forks:2,forks_per_turn:2}"],
    "mt_grpo": ["+arpo.turn_rewards=asked.results_of_turns"],
}
"""Forks of rounds for four leaves, where the paper's are for more; and a function that rewards turns."""
Step = Mapping[str, float]
OWN: dict[str, Callable[[Step], bool]] = {
    "aepo": lambda step: step["actor/pg_clipfrac"] >= 0,
    "ampo": lambda step: 0 <= step["replay/used"] <= PROMPTS,
    "a2tgpo": lambda step: math.isfinite(step["info_gain/failed_fraction"]),
    "igpo": lambda step: math.isfinite(step["info_gain/failed_fraction"]),
    "mt_grpo": lambda step: step["turn_reward/failed_fraction"] == 0,
}
"""What the metrics of a step show of a preset."""


@pytest.fixture(scope="module")
def runs(request, world, tmp_path_factory) -> Path:
    """A folder with the metrics and the resolved configuration of a run of each preset that is asked for."""
    folder = tmp_path_factory.mktemp("presets")
    questions = with_solutions(world / "train.parquet", folder)
    overrides = [
        *stock_overrides(world, folder),
        f"trainer.total_training_steps={STEPS}",
        "trainer.resume_mode=disable",
        "actor_rollout_ref.actor.calculate_entropy=True",
        f"data.train_files={questions}",
    ]
    presets = {
        name: [f"+arpo.preset={name}", *given(load_preset(name), folder), *FEW_LEAVES.get(name, [])]
        for name in asked_for(request.session.items)
    }
    wanted = folder / "wanted.json"
    wanted.write_text(json.dumps({"folder": str(folder), "overrides": overrides, "runs": presets}))
    environment = TrainingRun("", 0, 0, folder, []).environment() | {
        "ARPO_SEARCH_CORPUS": str(world / "corpus.jsonl"),
        "PYTHONPATH": os.pathsep.join([str(TESTS / "shared"), os.environ.get("PYTHONPATH", "")]),
    }
    with (folder / "train.log").open("w") as log:
        command = [sys.executable, str(TESTS / "integration" / "train_presets.py"), str(wanted)]
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=1800)
    assert done.returncode == 0, (folder / "train.log").read_text(errors="replace")[-5000:]
    return folder


def asked_for(items: Sequence[pytest.Item]) -> list[str]:
    """Return the presets that the tests of this file are about."""
    ours = [item for item in items if item.path == Path(__file__) and isinstance(item, pytest.Function)]
    return [item.callspec.params["name"] for item in ours]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in IN_SUITE else pytest.mark.nightly) for name in AVAILABLE]
)
def test_a_preset_trains(runs, name):
    error = runs / f"{name}.error"
    assert not error.exists(), error.read_text()
    steps = [json.loads(line)["data"] for line in (runs / f"{name}.jsonl").read_text().splitlines()]
    assert [step["training/global_step"] for step in steps] == list(range(1, STEPS + 1))
    config = yaml.safe_load((runs / f"{name}.yaml").read_text())
    assert config["arpo"]["filled_preset"] == name
    grows_trees = config["algorithm"]["adv_estimator"] == "arpo" and config["arpo"].get("rollout") != "linear"
    for step in steps:
        assert math.isfinite(step["actor/grad_norm"]) and math.isfinite(step["actor/loss"])
        if grows_trees:
            assert step["arpo/leaves/min"] == step["arpo/leaves/max"] == LEAVES
        assert OWN.get(name, lambda _: True)(step)
