"""verl's trainer with a record of its rollouts. Written against verl 0.9.1, `trainer/ppo/v1/trainer_base.py`.

Where a run's leaves are grown by our agent loop, `trainer.rollout_data_dir` gets a file of `arpo_verl.record` for each
step, in the place of verl's rows. The step waits for the reading of its columns alone: tokens are decoded, and the file
is written, by the thread in which verl writes its own. There `arpo.log_trees`, which needs no such folder, has its
table made too.
"""

import copy
import logging
import time
from pathlib import Path
from typing import Any

from arpo_verl.integration.queue import KVBatchMeta
from arpo_verl.integration.settings import RunParts, arpo_config
from arpo_verl.integration.training.record_rows import read_rows
from arpo_verl.integration.training.replay_trainer import ReplayTrainer
from arpo_verl.integration.training.tree_log import TreeLog
from arpo_verl.record import RecordedStep
from arpo_verl.record.building import RecordBuilder, Row
from arpo_verl.record.token_texts import TokenTexts
from arpo_verl.record.writing import write_step

logger = logging.getLogger(__name__)

MOST_ALARMS, ALARM_CHARACTERS = 100, 1000
"""What is kept of a step's warnings and errors."""


class RecordTrainer(ReplayTrainer):
    """Writes what a step's rollouts were. That a file can't be written is logged, and ends nothing."""

    _parts: RunParts
    _began: float | None = None
    _builder: RecordBuilder | None = None
    _alarms: "Alarms | None" = None
    _tree_log: TreeLog | None = None

    def on_step_begin(self) -> None:
        super().on_step_begin()
        self._began = time.time()
        if self._alarms is None and self.config.trainer.get("rollout_data_dir") and self._parts.is_guarded:
            self._alarms = Alarms()
            logging.getLogger("arpo_verl").addHandler(self._alarms)
        if self._tree_log is None and self._parts.is_guarded and (trees := arpo_config(self.config).log_trees):
            self._tree_log = TreeLog(trees, self.logger.logger)

    def step(self, *args: Any, **kwargs: Any) -> KVBatchMeta:
        batch = super().step(*args, **kwargs)
        if self._tree_log is not None and not self.config.trainer.get("rollout_data_dir"):
            self._keep(batch, {}, None)
        return batch

    def _log_rollout_data(self, batch: KVBatchMeta, timing_raw: dict[str, float], rollout_data_dir: str) -> None:
        if not self._parts.is_guarded:
            super()._log_rollout_data(batch, timing_raw, rollout_data_dir)
            return
        self._keep(batch, timing_raw, Path(rollout_data_dir))

    def _shutdown_dump_executor(self) -> None:
        super()._shutdown_dump_executor()
        if self._tree_log is not None:
            self._tree_log.close()

    def _keep(self, batch: KVBatchMeta, timing_raw: dict[str, float], folder: Path | None) -> None:
        """Read the step's rows, and let the record and the table of trees be written meanwhile; does not raise."""
        try:
            rows = read_rows(self.without_additions(batch), self._parts.grows_trees, self.replayed_steps)
            step = self._recorded_step(rows, timing_raw)
            builder = self._record_builder()
            # verl looks at what has become of these when it dumps again, and waits for them at the end.
            if folder is not None:
                path = folder / f"{step.step}.jsonl"
                self._dump_futures.append(self._dump_executor.submit(write_record, path, step, rows, builder))
            if self._tree_log is not None:
                task = self._dump_executor.submit(self._tree_log.log, step.step, rows, builder, step.began)
                self._dump_futures.append(task)
        except Exception:  # what can't be looked at afterwards is no reason to end a training
            logger.exception("the rollouts of step %d can't be recorded", self.global_steps)

    def _recorded_step(self, rows: list[Row], timing_raw: dict[str, float]) -> RecordedStep:
        return RecordedStep(
            step=self.global_steps,
            began=self._began or time.time(),
            seconds={name: round(float(seconds), 3) for name, seconds in timing_raw.items()},
            alarms=self._alarms.taken() if self._alarms is not None else (),
            size=len({row.prompt for row in rows}),
        )

    def _record_builder(self) -> RecordBuilder:
        if self._builder is None:
            # Its own: a fast tokenizer that decodes here can't be set to pad or to cut in the main thread.
            tokenizer = copy.deepcopy(self.tokenizer)
            self._builder = RecordBuilder(TokenTexts(lambda ids: _decoded(tokenizer, ids), special_ids(tokenizer)))
        return self._builder


def write_record(path: Path, step: RecordedStep, rows: list[Row], builder: RecordBuilder) -> None:
    """Write the record of a step; does not raise."""
    try:
        write_step(path, step, builder.prompts(rows, step.began))
    except Exception:  # a disk that is full must not end a training
        logger.exception("the record of step %d could not be written to %s", step.step, path)


def special_ids(tokenizer: Any) -> set[int]:
    """Return the tokens that `decode(..., skip_special_tokens=True)` leaves out, as verl does."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}


def _decoded(tokenizer: Any, token_ids: Any) -> str:
    text: str = tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


class Alarms(logging.Handler):
    """Keeps warnings and errors until they are taken."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._texts) >= MOST_ALARMS:
            return
        try:
            self._texts.append(f"{record.levelname}: {record.getMessage()}"[:ALARM_CHARACTERS])
        except Exception:  # of a message that can't be formatted; `logging` says so to the others
            self.handleError(record)

    def taken(self) -> list[str]:
        """Return what has been kept, and forget it."""
        texts, self._texts = self._texts, []
        return texts
