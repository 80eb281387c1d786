"""What a rule has learnt: which steps count, that it travels with the prompts, and that a resumed run has it too."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, get_trainer_cls
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import tensordict_utils

from arpo_verl.config import ArpoConfig
from arpo_verl.integration.rollout.agent_loop import RULE_MEMORY
from arpo_verl.integration.rollout.worker import ArpoAgentLoopManager, Occurrences
from arpo_verl.integration.training.rule_memory import RuleMemory
from arpo_verl.rollout.fork_outcome import ForkOutcome
from arpo_verl.rollout.rule import BranchingRule
from arpo_verl.rollout.tree import Decision
from arpo_verl.rules import build_rule


class Counting(BranchingRule):
    """Remembers the number of decisions."""

    def learn(self, memory, outcomes):
        return {"seen": (memory or {"seen": 0})["seen"] + len(outcomes)}


def outcomes(number: int) -> list[ForkOutcome]:
    decision = Decision(1, "coin", fork_probability=0.5, features={"bias": 1.0})
    return [ForkOutcome(decision, 0.25, 0.25, (5.0, 1.0), (10.0, 1.0), 1.0)] * number


def test_the_rule_learns_from_finished_steps_alone():
    memory = RuleMemory(Counting(ArpoConfig()))
    assert memory.packed is None
    memory.step_begins()
    memory.seen(outcomes(2))
    memory.seen(outcomes(1))
    memory.step_ends()
    assert memory.packed == '{"seen": 3}'
    memory.step_begins()
    memory.seen(outcomes(100))  # of a step that is not finished
    memory.step_begins()
    memory.seen(outcomes(4))
    memory.step_ends()
    assert memory.packed == '{"seen": 7}'


@pytest.mark.parametrize("rule", [None, BranchingRule(ArpoConfig())])
def test_a_rule_that_learns_nothing_keeps_nothing(rule, tmp_path):
    memory = RuleMemory(rule)
    memory.seen(outcomes(2))
    memory.step_ends()
    memory.save(tmp_path)
    memory.load(tmp_path)
    assert memory.packed is None and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [{"a": float("nan")}, {"a": object()}])
def test_a_memory_that_can_not_be_written_is_an_error_that_says_what_to_mend(bad):
    class Bad(BranchingRule):
        def learn(self, memory, outcomes):
            return bad

    memory = RuleMemory(Bad(ArpoConfig()))
    with pytest.raises(ValueError, match=r"Bad\.learn returned what is no JSON .*mend the rule"):
        memory.step_ends()


def test_a_resumed_run_learns_on_as_one_that_was_not_interrupted(tmp_path):
    config = ArpoConfig(rule="expected_variance")
    whole, resumed = RuleMemory(build_rule(config)), RuleMemory(build_rule(config))
    whole.seen(outcomes(7))
    whole.step_ends()
    whole.seen(outcomes(100))
    whole.save(tmp_path)  # in the middle of a step
    resumed.load(tmp_path)
    assert resumed.packed == whole.packed
    for memory in (whole, resumed):
        memory.step_begins()
        memory.seen(outcomes(3))
        memory.step_ends()
    assert resumed.packed == whole.packed


def test_the_trainer_keeps_it_in_the_checkpoint(monkeypatch, tmp_path):
    step = tmp_path / "global_step_2"
    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", lambda self: step.mkdir(exist_ok=True))
    monkeypatch.setattr(PPOTrainer, "_load_checkpoint", lambda self: setattr(self, "global_steps", 2))

    def trainer():
        with initialize_config_module("arpo_verl.config", version_base=None):
            config = compose("arpo_trainer", overrides=[f"trainer.default_local_dir={tmp_path}"])
        made = object.__new__(get_trainer_cls("sync"))
        made.config, made.global_steps, made._loss = config, 2, None
        made._rule_memory = RuleMemory(Counting(ArpoConfig()))
        made._state = SimpleNamespace(save_begins=lambda: None, saved=lambda: None, loaded=lambda: None)
        return made

    saving, loading = trainer(), trainer()
    saving._rule_memory.seen(outcomes(5))
    saving._rule_memory.step_ends()
    saving._save_checkpoint()
    loading._load_checkpoint()
    assert loading._rule_memory.packed == '{"seen": 5}'


def test_it_travels_with_every_prompt(monkeypatch):
    sent = []
    monkeypatch.setattr(AgentLoopManagerTQ, "generate_sequences", lambda self, prompts: sent.append(prompts))
    manager = object.__new__(ArpoAgentLoopManager)
    manager._occurrences, manager.rule_memory = Occurrences(), RuleMemory(Counting(ArpoConfig()))
    manager.prompt_places, manager._next_place = {}, itertools.count()

    def prompts(step: int):
        messages = np.empty(3, dtype=object)
        messages[:] = [[{"role": "user", "content": question}] for question in "abc"]
        uids = np.array([f"{step}{question}" for question in "abc"], dtype=object)
        columns = {"index": np.arange(3).astype(object), "raw_prompt": messages, "uid": uids}
        made = tensordict_utils.get_tensordict(columns)
        tensordict_utils.assign_non_tensor_data(made, "global_steps", step)
        return made

    manager.generate_sequences(prompts(1))
    assert RULE_MEMORY not in sent[0]
    manager.rule_memory.seen(outcomes(2))
    manager.rule_memory.step_ends()
    manager.generate_sequences(prompts(2))
    # As verl's manager cuts a batch for its workers, and a worker a chunk for its prompts (`agent_loop_tq.py`).
    for chunk in sent[1].chunk(2):
        assert json.loads(dict(chunk.items())[RULE_MEMORY].data) == {"seen": 2}
    # The trainer orders its rows by where their prompts were asked for.
    assert manager.prompt_places == {"1a": 0, "1b": 1, "1c": 2, "2a": 3, "2b": 4, "2c": 5}
