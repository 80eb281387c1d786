"""What the trainer decides without verl's queue: how much of a step is lost, the manager, and what an end saves."""

import threading
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import get_trainer_cls

from arpo_verl.integration.lost_leaves import REWARD_FAILURE, lost_fraction, require_enough_leaves, reward_failures
from arpo_verl.integration.process_watch import ProcessDied
from arpo_verl.integration.save_on_stop import SaveOnStop
from arpo_verl.integration.tool_guard import RunStopped
from arpo_verl.integration.trainer import MANAGER, ArpoTrainer, choose_manager, prompt_of, session_of
from arpo_verl.rollout.metrics import LeafRecord


def tree(size: int, asked: int) -> list[LeafRecord]:
    return [
        LeafRecord(asked, number, None, "0", None, False, "completed", False, False, [], [], None, [], None, 0, 0)
        for number in range(size)
    ]


def test_nothing_is_lost_of_whole_trees_also_where_a_prompt_asked_for_another_size():
    assert lost_fraction({"a": tree(4, asked=4), "b": tree(6, asked=6)}, prompts=2, leaves=4, failures=[]) == 0


@pytest.mark.parametrize(
    ("trees", "prompts", "failures", "lost"),
    [
        (1, 2, 0, 4 / 8), (3, 4, 0, 4 / 16), (4, 4, 3, 3 / 16), (3, 4, 1, 5 / 16), (4, 4, 16, 1), (1, 1, 0, 0),
        (63, 64, 0, 1 / 64), (60, 64, 8, 24 / 256),
    ],
)  # fmt: skip
def test_prompts_that_have_failed_and_leaves_without_a_reward_are_lost(trees, prompts, failures, lost):
    grown = {str(number): tree(4, asked=4) for number in range(trees)}
    assert lost_fraction(grown, prompts, leaves=4, failures=["late"] * failures) == pytest.approx(lost)


def test_an_incomplete_tree_is_an_error_that_names_the_prompt():
    with pytest.raises(RuntimeError, match=r"leaves missing in \['b: 3 of 4'\]"):
        lost_fraction({"a": tree(4, asked=4), "b": tree(3, asked=4)}, prompts=2, leaves=4, failures=[])


@pytest.mark.parametrize(("at_most", "is_stopped"), [(0.0, True), (0.24, True), (0.25, False), (1.0, False)])
def test_a_run_stops_above_the_share_that_may_be_lost(at_most, is_stopped):
    if not is_stopped:
        require_enough_leaves(0.25, at_most, ["KeyError: 'score'"])
        return
    with pytest.raises(RunStopped, match=r"25% of the step's leaves are lost.*first failure of a reward: KeyError"):
        require_enough_leaves(0.25, at_most, ["KeyError: 'score'"])


def test_a_step_without_losses_never_stops_a_run():
    require_enough_leaves(0.0, 0.0, [])


def test_the_reasons_of_failed_rewards_are_found():
    fields = {"a": {"reward_extra_info": {"acc": 1}}, "b": {"reward_extra_info": {REWARD_FAILURE: "late"}}, "c": {}}
    assert reward_failures(fields) == ["late"]


def test_the_ids_of_prompt_and_session_are_read_from_a_rows_key():
    assert (prompt_of("a_b_3_0"), session_of("a_b_3_0")) == ("a_b", "a_b_3")


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_verls_trainers_are_ours(mode):
    assert issubclass(get_trainer_cls(mode), ArpoTrainer)


def manager_config(agent: dict, estimator: str = "arpo"):
    config = OmegaConf.create(
        {"algorithm": {"adv_estimator": estimator}, "actor_rollout_ref": {"rollout": {"agent": agent}}}
    )
    OmegaConf.set_struct(config, True)
    return config


@pytest.mark.parametrize("agent", [{}, {"agent_loop_manager_class": None}, {"agent_loop_manager_class": MANAGER}])
@pytest.mark.parametrize("estimator", ["arpo", "grpo"])
def test_our_manager_is_chosen(agent, estimator):
    config = manager_config(agent, estimator)
    choose_manager(config)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == MANAGER


def test_another_manager_is_refused_by_trees_and_kept_by_others():
    agent = {"agent_loop_manager_class": "my.Manager"}
    with pytest.raises(ValueError, match=r"agent_loop_manager_class='my\.Manager'; expected it unset"):
        choose_manager(manager_config(agent))
    config = manager_config(agent, "grpo")
    choose_manager(config)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == "my.Manager"


class Trainer:
    """A trainer's counters and its checkpoint: a step's number and the place in the data."""

    def __init__(self, folder, mode: str = "sync") -> None:
        self.trainer_mode, self.global_steps, self.place = mode, 0, 0
        self.config = OmegaConf.create({"trainer": {"default_local_dir": str(folder), "resume_mode": "auto"}})
        self.train_dataloader = SimpleNamespace(state_dict=lambda: {"place": self.place})
        self.checkpoint_manager = SimpleNamespace(sleep_replicas=lambda: self.events.append("sleep"))
        self.events: list[str] = []
        self.folder, self.state = folder, SaveOnStop(self)

    def _save_checkpoint(self) -> None:
        self.events.append(f"save {self.global_steps}")
        (self.folder / f"global_step_{self.global_steps}").mkdir()
        torch.save({"place": self.place}, self.folder / f"global_step_{self.global_steps}" / "data.pt")
        self.state.saved()

    def begin(self, step: int) -> None:
        self.global_steps = step
        self.state.step_begins()
        self.state.sampling(True)
        self.place += 1  # the prompts of the step are fetched

    def train(self, step: int) -> None:
        self.begin(step)
        self.state.sampling(False)
        self.state.update_begins()
        self.state.step_ends()


@pytest.fixture
def trainer(tmp_path) -> Trainer:
    made = Trainer(tmp_path)
    made.state.loaded()
    return made


def place_of(trainer: Trainer, step: int) -> int:
    return torch.load(trainer.folder / f"global_step_{step}" / "data.pt")["place"]


def test_an_end_in_the_first_step_has_nothing_to_save(trainer):
    trainer.begin(1)
    assert trainer.state.save(are_leaves_bad=False) == "No step has been finished, so there is nothing to save."
    assert trainer.events == []


def test_an_end_while_leaves_grow_saves_the_step_before_with_its_place_in_the_data(trainer):
    trainer.train(1)
    trainer.train(2)
    trainer.begin(3)
    said = trainer.state.save(are_leaves_bad=False)
    assert said.startswith("The state of step 2 is in ") and said.endswith("the same command goes on from there.")
    assert trainer.events == ["sleep", "save 2"]
    assert (place_of(trainer, 2), trainer.global_steps) == (2, 3)


def test_an_end_after_the_last_update_of_a_step_saves_that_step(trainer):
    trainer.train(1)
    trainer.train(2)
    assert "step 2" in trainer.state.save(are_leaves_bad=False)
    assert trainer.events == ["save 2"]
    assert place_of(trainer, 2) == 2


def test_an_end_in_the_middle_of_an_update_saves_nothing_and_names_the_last_checkpoint(trainer):
    trainer.train(1)
    trainer._save_checkpoint()
    trainer.train(2)
    trainer.begin(3)
    trainer.state.update_begins()
    said = trainer.state.save(are_leaves_bad=False)
    assert "Step 3 had begun to update the weights" in said and "that of step 1" in said
    assert trainer.events == ["save 1"]


def test_a_step_that_is_saved_is_not_saved_again(trainer):
    trainer.train(1)
    trainer._save_checkpoint()
    trainer.begin(2)
    assert "The state of step 1 is in" in trainer.state.save(are_leaves_bad=False)
    assert trainer.events == ["save 1"]
    assert place_of(trainer, 1) == 1


def test_a_resumed_run_that_ends_in_its_first_step_keeps_the_checkpoint_it_came_from(trainer):
    trainer.global_steps = 5
    trainer.state.loaded()
    trainer.begin(6)
    assert "The state of step 5 is in" in trainer.state.save(are_leaves_bad=False)
    assert trainer.events == []


def test_a_state_that_cannot_be_saved_is_reported_beside_the_error_that_ends_the_run(trainer):
    trainer.train(1)
    trainer.folder = trainer.folder / "gone" / "away"
    said = trainer.state.save(are_leaves_bad=False)
    assert said.startswith("The state of step 1 could not be saved (FileNotFoundError")
    assert "none: there is no checkpoint" in said


def test_dead_servers_do_not_keep_a_state_from_being_saved(trainer):
    def fail() -> None:
        raise ConnectionError("the server is dead")

    trainer.train(1)
    trainer.begin(2)
    trainer.checkpoint_manager.sleep_replicas = fail
    assert "The state of step 1 is in" in trainer.state.save(are_leaves_bad=False)


def test_hanging_servers_do_not_keep_a_state_from_being_saved(trainer, monkeypatch):
    monkeypatch.setattr("arpo_verl.integration.save_on_stop.SLEEP_SECONDS", 0.05)
    trainer.train(1)
    trainer.begin(2)
    trainer.checkpoint_manager.sleep_replicas = threading.Event().wait
    assert "The state of step 1 is in" in trainer.state.save(are_leaves_bad=False)


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_the_weights_of_a_saved_step_are_never_saved_over(tmp_path, mode):
    """verl deletes a step that is saved twice where one checkpoint is to be kept."""
    trainer = Trainer(tmp_path, mode)
    trainer.train(1)
    trainer._save_checkpoint()
    trainer.begin(2)
    assert "The state of step 1 is in" in trainer.state.save(are_leaves_bad=False)
    assert trainer.events == ["save 1"]


@pytest.mark.parametrize(("mode", "is_saved"), [("sync", True), ("colocate_async", False)])
def test_a_dead_queue_is_not_waited_for(tmp_path, mode, is_saved):
    trainer = Trainer(tmp_path, mode)
    trainer.train(1)
    trainer.begin(2)
    said = trainer.state.save(are_leaves_bad=False, is_queue_dead=True)
    assert ("The state of step 1 is in" in said) == is_saved
    assert ("could not be saved (RuntimeError: TransferQueue" in said) != is_saved


def test_the_dead_are_named_with_their_causes():
    death = ProcessDied({"TransferQueue's controller": "killed", "reward worker 1": "out of memory"})
    assert str(death).startswith("TransferQueue's controller, reward worker 1 died while the run needed it")
    assert "reward worker 1: out of memory" in str(death)
    assert death.is_among("TransferQueue's") and not death.is_among("agent")
