"""Saves the last finished step when a run ends by an error, wherever that comes from.

verl saves every `trainer.save_freq` steps (verl 0.9.1, `trainer/ppo/v1/trainer_base.py`, `fit`); whatever ends a run in
between loses the steps since. A state can be saved as long as the weights are those of a finished step: not from the
first update of a step until its last one, and not when the processes that hold the weights are dead or hang. In the
modes other than `sync` a checkpoint holds TransferQueue's rows too; when that is dead or hangs, it is made without.
"""

import logging
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import open_dict

from arpo_verl.integration.queue import save_queue
from arpo_verl.integration.settings import arpo_config
from arpo_verl.integration.training.deadline import deadline
from arpo_verl.integration.training.queue_rows import keep_what_a_resumed_run_can_use

if TYPE_CHECKING:  # importing it registers our trainers, which import this
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

logger = logging.getLogger(__name__)

SLEEP_SECONDS = 60.0
"""How long inference servers may take to free their memory before a save."""
QUEUE_SECONDS = 300.0
"""How long TransferQueue may take to be saved, which writes the rows of the prompts in flight."""
PARTITION = "train"


class SaveOnStop:
    """Follows a trainer through its steps and saves what it has when it stops."""

    def __init__(self, trainer: "PPOTrainer") -> None:
        self._trainer = trainer
        self._finished_step = 0
        """The step whose weights the trainer has, unless `_is_updating`."""
        self._saved_step: int | None = None
        self._is_updating = False
        self._is_saving = False
        self._is_syncing = False
        self._are_servers_awake = False
        self._position_in_data: Any = None
        """The dataloader's before the step that has begun, which is to train on the same prompts again."""

    @property
    def _is_sync(self) -> bool:
        return bool(self._trainer.trainer_mode == "sync")

    @property
    def _stall_seconds(self) -> float:
        return arpo_config(self._trainer.config).max_stall_seconds

    @property
    def is_between_updates(self) -> bool:
        """Whether nothing is lost if the run ends now: no weights are changed, saved or sent to the servers."""
        return not (self._is_updating or self._is_saving or self._is_syncing)

    def loaded(self) -> None:
        """The trainer has loaded a checkpoint, or none."""
        is_own = self._trainer.config.trainer.resume_mode == "auto"
        self._finished_step = self._trainer.global_steps
        self._saved_step = self._trainer.global_steps if is_own else None

    def save_begins(self) -> None:
        """The trainer begins to save a checkpoint."""
        self._is_saving = True

    def saved(self) -> None:
        """The trainer has saved a checkpoint."""
        self._is_saving = False
        self._saved_step = self._trainer.global_steps

    def sync_begins(self) -> None:
        """The servers that share the trainer's memory wake up for the step's weights."""
        self._is_syncing, self._are_servers_awake = True, True

    def sync_ends(self) -> None:
        """The servers have the step's weights, and stay awake."""
        self._is_syncing = False

    def servers_sleep(self) -> None:
        """The servers that share the trainer's memory have given it back."""
        self._are_servers_awake = False

    def step_begins(self) -> None:
        # Only a run that has something to save needs it, and only where prompts are not kept in the queue.
        is_kept = self._finished_step > 0 and self._is_sync
        self._position_in_data = self._trainer.train_dataloader.state_dict() if is_kept else None

    def update_begins(self) -> None:
        """From here on the weights are those of no step."""
        self._is_updating = True

    def step_ends(self) -> None:
        """All updates of the step are done."""
        self._is_updating = False
        self._finished_step = self._trainer.global_steps
        self._position_in_data = None

    def save(self, are_leaves_bad: bool, is_queue_dead: bool = False) -> str:
        """Save the last finished step, if it is not saved yet, and return in words what is saved and where.

        Never raises, because it is called to report another error. Gives up a save that takes longer than
        `arpo.max_stall_seconds`, and the queue's part in it after `QUEUE_SECONDS` or that, if less.

        Args:
            are_leaves_bad: the leaves that are in the queue must not be found by a resumed run: their tools failed.
            is_queue_dead: TransferQueue answers no more.
        """
        try:
            return self._save(are_leaves_bad, is_queue_dead)
        except Exception as error:
            logger.exception("the state of step %d could not be saved", self._finished_step)
            return (
                f"The state of step {self._finished_step} could not be saved ({type(error).__name__}: {error}); the "
                f"last checkpoint is that of {self._last_checkpoint()}."
            )

    def _last_checkpoint(self) -> str:
        return "none: there is no checkpoint" if not self._saved_step else f"step {self._saved_step}"

    def _save(self, are_leaves_bad: bool, is_queue_dead: bool) -> str:
        step = self._finished_step
        if self._is_updating:
            return (
                f"Step {self._trainer.global_steps} had begun to update the weights, so its state is not saved; the "
                f"last checkpoint is that of {self._last_checkpoint()}."
            )
        if step == 0:
            return "No step has been finished, so there is nothing to save."
        folder = Path(self._trainer.config.trainer.default_local_dir, f"global_step_{step}")
        is_new = self._saved_step != step
        is_queue_wanted = not self._is_sync and (is_new or are_leaves_bad)
        is_queue_saved = is_queue_wanted and not is_queue_dead and self._has_saved_queue(step, folder, are_leaves_bad)
        if is_new:
            with deadline(self._stall_seconds, "saving the checkpoint"):
                self._save_checkpoint(step, folder)
        elif is_queue_saved:
            # They go together. The weights stay: verl counts a step that is saved twice as two, and deletes the older
            # of them, which is both.
            torch.save(self._trainer.train_dataloader.state_dict(), folder / "data.pt")
        is_found = self._trainer.config.trainer.resume_mode == "auto"
        how = "the same command" if is_found else f"trainer.resume_mode=resume_path, resume_from_path={folder}"
        said = f"The state of step {step} is in {folder}; {how} goes on from there."
        if is_queue_wanted and not is_queue_saved:
            said += _without_the_queue(is_new)
        return said

    def _has_saved_queue(self, step: int, folder: Path, are_leaves_bad: bool) -> bool:
        """Save the queue's rows, and return whether it was possible: it may be what has ended the run."""
        target = folder / "transfer_queue"
        try:
            with deadline(min(QUEUE_SECONDS, self._stall_seconds), "saving TransferQueue"):
                keep_what_a_resumed_run_can_use(PARTITION, are_leaves_bad)
                save_queue(target, step)
        except Exception:
            logger.exception("TransferQueue could not be saved")
            shutil.rmtree(target.with_name(f"{target.name}.tmp"), ignore_errors=True)
            return False
        return True

    def _free_memory(self) -> None:
        """Put the servers to sleep, as verl does before it saves: they hold the memory that the weights may need.

        A server may be what has died or hangs, so it is waited for in another thread and not for ever.
        """

        def sleep() -> None:
            try:
                # As verl does where rollout goes on meanwhile; a server that sleeps waits for its requests to end.
                self._trainer.checkpoint_manager.abort_replicas()
                self._trainer.checkpoint_manager.sleep_replicas()
            except Exception:
                logger.exception("the inference servers could not be put to sleep; saving all the same")

        sleeping = threading.Thread(target=sleep, name="servers to sleep", daemon=True)
        sleeping.start()
        sleeping.join(SLEEP_SECONDS)
        if sleeping.is_alive():
            logger.error("the inference servers did not go to sleep in %g s; saving all the same", SLEEP_SECONDS)

    def _do_servers_hold_memory(self) -> bool:
        """Whether servers that share the trainer's memory are awake; `separate_async` lends it to them by turns."""
        turn = getattr(self._trainer, "current_mode", None)
        return self._are_servers_awake if turn is None else bool(turn.value == "rollout")

    def _save_checkpoint(self, step: int, folder: Path) -> None:
        """Save what verl saves in the mode `sync`: the queue, where there is one to save, is in the folder already."""
        trainer = self._trainer
        if self._do_servers_hold_memory():
            self._free_memory()
        if self._is_saving:
            self._keep_all_checkpoints()
        current, mode = trainer.global_steps, trainer.trainer_mode
        trainer.global_steps, trainer.trainer_mode = step, "sync"
        try:
            trainer._save_checkpoint()
        finally:
            trainer.global_steps, trainer.trainer_mode = current, mode
        if self._position_in_data is not None:
            torch.save(self._position_in_data, folder / "data.pt")

    def _keep_all_checkpoints(self) -> None:
        """Have a save that is made again remove nothing.

        Where one checkpoint is to be kept, verl has removed the one before when the first attempt had written the
        weights, and would now remove what it counts as the one before: the same folder.
        """
        settings = self._trainer.config.trainer
        with open_dict(settings):
            settings.remove_previous_ckpt_in_save = False
            settings.max_actor_ckpt_to_keep = settings.max_critic_ckpt_to_keep = None


def _without_the_queue(is_new: bool) -> str:
    if is_new:
        return (
            " TransferQueue could not be saved with it (the log above says why): the prompts that were in flight are "
            "left out of the run that goes on."
        )
    return " What its checkpoint holds of TransferQueue is as of when that step ended, failed leaves included."
