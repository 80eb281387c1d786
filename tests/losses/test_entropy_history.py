"""The mean entropy of past steps: what counts, and that a resumed run has it too."""

import math
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from arpo_verl.integration.training.entropy_history import EntropyHistory
from arpo_verl.integration.training.policy_loss import ChosenLoss
from arpo_verl.integration.training.rule_memory import RuleMemory


def test_the_mean_is_that_of_the_finished_steps():
    history = EntropyHistory()
    assert math.isnan(history.mean)
    for seen in ([1.0], [2.0, 3.0], [math.nan], []):
        history.step_begins()
        for mean in seen:
            history.seen(mean)
        history.step_ends()
    assert history.mean == 2.0


def test_a_step_that_was_not_finished_does_not_count():
    history = EntropyHistory()
    history.step_begins()
    history.seen(1.0)
    history.step_ends()
    history.step_begins()
    history.seen(9.0)
    assert history.mean == 1.0
    history.step_begins()
    history.seen(3.0)
    history.step_ends()
    assert history.mean == 2.0


def test_a_resumed_run_goes_on_from_the_saved_mean(tmp_path):
    history, resumed = EntropyHistory(), EntropyHistory()
    for mean in (1.0, 2.0):
        history.seen(mean)
        history.step_ends()
    history.seen(100.0)
    history.save(tmp_path)
    resumed.load(tmp_path)
    resumed.seen(6.0)
    resumed.step_ends()
    assert resumed.mean == 3.0


def test_a_checkpoint_without_a_history_begins_anew(tmp_path):
    history = EntropyHistory()
    history.load(tmp_path)
    assert math.isnan(history.mean)


@pytest.mark.parametrize("mode", ["auto", "resume_path"])
@pytest.mark.parametrize(("loss", "is_kept"), [("entropy_band", True), ("grad_preserving", False)])
def test_the_trainer_keeps_it_in_the_checkpoint_where_the_loss_compares_with_it(
    monkeypatch, tmp_path, mode, loss, is_kept
):
    step = tmp_path / "global_step_2"
    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", lambda self: step.mkdir(exist_ok=True))
    monkeypatch.setattr(PPOTrainer, "_load_checkpoint", lambda self: setattr(self, "global_steps", 2))

    def trainer():
        overrides = [f"arpo.loss={loss}", f"trainer.default_local_dir={tmp_path}", f"trainer.resume_mode={mode}"]
        with initialize_config_module("arpo_verl.config", version_base=None):
            config = compose("arpo_trainer", overrides=[*overrides, f"trainer.resume_from_path={step}"])
        made = object.__new__(get_trainer_cls("sync"))
        made.config, made.global_steps, made._loss = config, 2, ChosenLoss.of(config)
        made._entropies, made._rule_memory = EntropyHistory(), RuleMemory(None)
        made._state = SimpleNamespace(save_begins=lambda: None, saved=lambda: None, loaded=lambda: None)
        return made

    saving, loading = trainer(), trainer()
    saving._entropies.seen(1.5)
    saving._entropies.step_ends()
    saving._save_checkpoint()
    loading._load_checkpoint()
    assert (loading._entropies.mean == 1.5) == is_kept
    assert len(list(step.iterdir())) == is_kept
