"""Saves the last finished step when a run ends by an error, wherever that comes from.

verl saves every `trainer.save_freq` steps (verl 0.9.1, `trainer/ppo/v1/trainer_base.py`, `fit`); whatever ends a run in
between loses the steps since. A state can be saved as long as the weights are those of a finished step: not from the
first update of a step until its last one, not when the processes that hold the weights are dead, and in the modes other
than `sync` not when TransferQueue is, of which a checkpoint is made there.
"""

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta

if TYPE_CHECKING:  # importing it registers our trainers, which import this
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

logger = logging.getLogger(__name__)

SLEEP_SECONDS = 60.0
"""How long inference servers may take to free their memory before a save."""


class SaveOnStop:
    """Follows a trainer through its steps and saves what it has when it stops."""

    def __init__(self, trainer: "PPOTrainer") -> None:
        self._trainer = trainer
        self._finished_step = 0
        """The step whose weights the trainer has, unless `_is_updating`."""
        self._saved_step: int | None = None
        self._is_updating = False
        self.is_sampling = False
        """Whether the trainer waits for leaves."""
        self._position_in_data: Any = None
        """The dataloader's before the step that has begun, which is to train on the same prompts again."""
        self._batch: KVBatchMeta | None = None

    @property
    def _is_sync(self) -> bool:
        return bool(self._trainer.trainer_mode == "sync")

    def loaded(self) -> None:
        """The trainer has loaded a checkpoint, or none."""
        is_own = self._trainer.config.trainer.resume_mode == "auto"
        self._finished_step = self._trainer.global_steps
        self._saved_step = self._trainer.global_steps if is_own else None

    def saved(self) -> None:
        """The trainer has saved a checkpoint."""
        self._saved_step = self._trainer.global_steps

    def step_begins(self) -> None:
        self._batch = None
        # Only a run that has something to save needs it, and only where prompts are not kept in the queue.
        is_kept = self._finished_step > 0 and self._is_sync
        self._position_in_data = self._trainer.train_dataloader.state_dict() if is_kept else None

    def sampling(self, is_sampling: bool) -> None:
        """The trainer begins or ends to wait for leaves."""
        self.is_sampling = is_sampling

    def sampled(self, batch: KVBatchMeta) -> None:
        """These are the leaves of the step that has begun."""
        self._batch = batch

    def update_begins(self) -> None:
        """From here on the weights are those of no step."""
        self._is_updating = True

    def step_ends(self) -> None:
        """All updates of the step are done."""
        self._is_updating = False
        self._finished_step = self._trainer.global_steps
        self._position_in_data = None
        self._batch = None

    def save(self, are_leaves_bad: bool, is_queue_dead: bool = False) -> str:
        """Save the last finished step, if it is not saved yet, and return in words what is saved and where.

        Never raises, because it is called to report another error.

        Args:
            are_leaves_bad: the leaves that are in the queue must not be found by a resumed run: their tools failed.
            is_queue_dead: TransferQueue answers no more, of which a checkpoint is made in all modes but `sync`.
        """
        try:
            if is_queue_dead and not self._is_sync:
                raise RuntimeError("TransferQueue, which is a part of it, has died")
            return self._save(are_leaves_bad)
        except Exception as error:
            logger.exception("the state of step %d could not be saved", self._finished_step)
            return (
                f"The state of step {self._finished_step} could not be saved ({type(error).__name__}: {error}); the "
                f"last checkpoint is that of {self._last_checkpoint()}."
            )

    def _last_checkpoint(self) -> str:
        return "none: there is no checkpoint" if not self._saved_step else f"step {self._saved_step}"

    def _save(self, are_leaves_bad: bool) -> str:
        step = self._finished_step
        if self._is_updating:
            return (
                f"Step {self._trainer.global_steps} had begun to update the weights, so its state is not saved; the "
                f"last checkpoint is that of {self._last_checkpoint()}."
            )
        if step == 0:
            return "No step has been finished, so there is nothing to save."
        if not self._is_sync and self._batch is not None:
            # The queue is part of a checkpoint: it must not hold leaves that belong to no prompt any more.
            tq.kv_clear(keys=self._batch.keys, partition_id=self._batch.partition_id)
            if are_leaves_bad:
                requeue_finished_prompts(self._batch.partition_id)
        folder = Path(self._trainer.config.trainer.default_local_dir, f"global_step_{step}")
        if self._saved_step != step:
            self._save_checkpoint(step, folder)
        elif are_leaves_bad and not self._is_sync:
            self._save_queue(step, folder)
        is_found = self._trainer.config.trainer.resume_mode == "auto"
        how = "the same command" if is_found else f"trainer.resume_mode=resume_path, resume_from_path={folder}"
        return f"The state of step {step} is in {folder}; {how} goes on from there."

    def _save_queue(self, step: int, folder: Path) -> None:
        """Replace what a whole checkpoint has of the queue and of the place in the data, which go together.

        Its weights stay: verl counts a step that is saved twice as two, and deletes the older of them, which is both.
        """
        tq.save_checkpoint(str(folder / "transfer_queue"), metadata={"global_steps": step})
        torch.save(self._trainer.train_dataloader.state_dict(), folder / "data.pt")

    def _free_memory(self) -> None:
        """Put the servers to sleep, as verl does before it saves: they hold the memory that the weights may need.

        A server may be what has died or hangs, so it is waited for in another thread and not for ever.
        """

        def sleep() -> None:
            try:
                self._trainer.checkpoint_manager.sleep_replicas()
            except Exception:
                logger.exception("the inference servers could not be put to sleep; saving all the same")

        sleeping = threading.Thread(target=sleep, name="servers to sleep", daemon=True)
        sleeping.start()
        sleeping.join(SLEEP_SECONDS)
        if sleeping.is_alive():
            logger.error("the inference servers did not go to sleep in %g s; saving all the same", SLEEP_SECONDS)

    def _save_checkpoint(self, step: int, folder: Path) -> None:
        trainer = self._trainer
        if self.is_sampling and self._is_sync:
            self._free_memory()
        current, trainer.global_steps = trainer.global_steps, step
        try:
            trainer._save_checkpoint()
        finally:
            trainer.global_steps = current
        if self._position_in_data is not None:
            torch.save(self._position_in_data, folder / "data.pt")


def requeue_finished_prompts(partition_id: str) -> None:
    """Have a resumed run grow the leaves of finished prompts anew (`trainer_base.py`, `_reissue_inflight_prompts`)."""
    tags = tq.kv_list(partition_id).get(partition_id, {})
    finished = {key: tag for key, tag in tags.items() if tag.get("is_prompt") and tag.get("status") == "finished"}
    if finished:
        again = [{**tag, "status": "pending"} for tag in finished.values()]
        tq.kv_batch_put(keys=list(finished), partition_id=partition_id, tags=again)
