"""What a trainer saves when it ends, by its counters alone: which step, with or without the queue, in which words."""

import threading
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from arpo_verl.integration.training.save_on_stop import SaveOnStop


class Trainer:
    """A trainer's counters and its checkpoint: a step's number and the place in the data."""

    def __init__(self, folder, mode: str = "sync") -> None:
        self.trainer_mode, self.global_steps, self.place = mode, 0, 0
        self.config = OmegaConf.create({"trainer": {"default_local_dir": str(folder), "resume_mode": "auto"}})
        self.train_dataloader = SimpleNamespace(state_dict=lambda: {"place": self.place})
        self.checkpoint_manager = SimpleNamespace(
            abort_replicas=lambda: self.events.append("abort"), sleep_replicas=lambda: self.events.append("sleep")
        )
        self.events: list[str] = []
        self.folder, self.state = folder, SaveOnStop(self)

    def _save_checkpoint(self) -> None:
        self.state.save_begins()
        self.events.append(f"save {self.global_steps}")
        (self.folder / f"global_step_{self.global_steps}").mkdir(exist_ok=True)
        torch.save({"place": self.place}, self.folder / f"global_step_{self.global_steps}" / "data.pt")
        self.state.saved()

    def begin(self, step: int) -> None:
        self.global_steps = step
        self.state.step_begins()
        self.place += 1  # the prompts of the step are fetched

    def train(self, step: int) -> None:
        """Take a step as the mode `sync` does, after which the servers are awake."""
        self.begin(step)
        self.state.servers_sleep()
        self.state.update_begins()
        self.state.step_ends()

    def sync(self) -> None:
        self.state.sync_begins()
        self.state.sync_ends()


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
    trainer.sync()
    trainer.begin(3)
    said = trainer.state.save(are_leaves_bad=False)
    assert said.startswith("The state of step 2 is in ") and said.endswith("the same command goes on from there.")
    assert trainer.events == ["abort", "sleep", "save 2"]
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
    trainer.sync()
    trainer.begin(2)
    trainer.checkpoint_manager.sleep_replicas = fail
    assert "The state of step 1 is in" in trainer.state.save(are_leaves_bad=False)


def test_hanging_servers_do_not_keep_a_state_from_being_saved(trainer, monkeypatch):
    monkeypatch.setattr("arpo_verl.integration.training.save_on_stop.SLEEP_SECONDS", 0.05)
    trainer.train(1)
    trainer.sync()
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


@pytest.mark.parametrize("is_dead", [True, False])
@pytest.mark.parametrize(("mode", "is_left_out"), [("sync", False), ("colocate_async", True), ("separate_async", True)])
def test_weights_are_saved_without_a_queue_that_is_dead_or_hangs(tmp_path, monkeypatch, mode, is_left_out, is_dead):
    monkeypatch.setattr("arpo_verl.integration.training.save_on_stop.QUEUE_SECONDS", 0.05)
    monkeypatch.setattr("transfer_queue.kv_list", lambda: threading.Event().wait())
    trainer = Trainer(tmp_path, mode)
    trainer.train(1)
    trainer.begin(2)
    said = trainer.state.save(are_leaves_bad=False, is_queue_dead=is_dead)
    assert "The state of step 1 is in" in said and trainer.events == ["save 1"]
    assert ("the prompts that were in flight are left out" in said) == is_left_out
    assert trainer.trainer_mode == mode


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
@pytest.mark.parametrize("is_awake", [True, False])
def test_servers_go_to_sleep_before_a_save_if_and_only_if_they_are_awake(tmp_path, monkeypatch, mode, is_awake):
    monkeypatch.setattr("arpo_verl.integration.training.save_on_stop.QUEUE_SECONDS", 0.05)
    monkeypatch.setattr("transfer_queue.kv_list", lambda: threading.Event().wait())
    trainer = Trainer(tmp_path, mode)
    trainer.train(1)
    if mode == "separate_async":  # it lends the memory of its own servers to the trainer and back
        trainer.current_mode = SimpleNamespace(value="rollout" if is_awake else "trainer")
    elif is_awake:
        trainer.sync()
    trainer.state.save(are_leaves_bad=False)
    assert trainer.events == (["abort", "sleep", "save 1"] if is_awake else ["save 1"])


def test_a_server_that_dies_while_it_gets_the_weights_is_put_to_sleep(trainer):
    trainer.train(1)
    trainer.state.sync_begins()
    trainer.state.save(are_leaves_bad=False)
    assert trainer.events == ["abort", "sleep", "save 1"]


def test_a_save_that_hangs_is_given_up_with_what_is_not_saved(tmp_path):
    trainer = Trainer(tmp_path)
    trainer.config.arpo = {"max_stall_seconds": 0.05}
    trainer.train(1)
    trainer.train_dataloader.state_dict = threading.Event().wait
    trainer._save_checkpoint = threading.Event().wait
    said = trainer.state.save(are_leaves_bad=False)
    assert "The state of step 1 could not be saved (TimeoutError: saving the checkpoint has not ended within" in said
    assert "none: there is no checkpoint" in said
    assert trainer.global_steps == 1


def test_a_save_that_is_made_again_removes_no_checkpoint(trainer):
    trainer.config.trainer.max_actor_ckpt_to_keep = 1
    trainer.train(1)
    trainer.state.save_begins()  # and the run ends in it
    assert "The state of step 1 is in" in trainer.state.save(are_leaves_bad=False)
    assert trainer.config.trainer.max_actor_ckpt_to_keep is None


def test_a_run_is_not_asked_to_end_in_the_middle_of_an_update_a_save_or_a_transfer_of_weights(trainer):
    state = trainer.state
    assert state.is_between_updates
    for begins, ends in (
        (state.update_begins, state.step_ends),
        (state.save_begins, state.saved),
        (state.sync_begins, state.sync_ends),
    ):
        begins()
        assert not state.is_between_updates
        ends()
        assert state.is_between_updates
