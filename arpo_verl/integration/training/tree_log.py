"""Logs tables of trees (`arpo.log_trees`) beside the steps: a logger that is slow, or fails, holds nothing up."""

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from arpo_verl.record.building import RecordBuilder, Row
from arpo_verl.record.forks import most_telling_rows
from arpo_verl.tree_table.loggers import WRITERS
from arpo_verl.tree_table.rows import TreeRow, rows_of_step

logger = logging.getLogger(__name__)

TEXT_ALONE = {"console", "file"}
"""Loggers of which nobody expects a table."""
LAST_SECONDS = 30.0
"""How long the end of a run waits for the last table."""


class TreeLog:
    """Hands a table a step to the loggers, in a thread of its own. No method raises."""

    def __init__(self, trees: int, loggers: Mapping[str, Any]) -> None:
        """
        Args:
            trees: of a step, at most.
            loggers: verl's, by name (`Tracking.logger`); those that take no table are named in a warning.
        """
        self._trees = trees
        self._loggers = {name: opened for name, opened in loggers.items() if name in WRITERS}
        self._tables: queue.Queue[tuple[int, list[TreeRow]] | None] = queue.Queue(maxsize=1)
        others = [name for name in loggers if name not in WRITERS]
        if not self._loggers or set(others) - TEXT_ALONE:
            logger.warning(
                "arpo.log_trees=%d: no table for %s; expected %s in trainer.logger; %s",
                trees,
                ", ".join(others) or "no logger",
                " or ".join(WRITERS),
                f"tables go to {', '.join(self._loggers)}" if self._loggers else "nothing is logged: add one",
            )
        self._thread = threading.Thread(target=self._run, name="arpo tables of trees", daemon=True)
        self._thread.start()

    def log(self, step: int, rows: Sequence[Row], builder: RecordBuilder, began: float) -> None:
        """Choose a step's trees and let their table be logged.

        Args:
            step: its number.
            rows: the step's.
            builder: decodes those that are chosen.
            began: when the step began, in seconds since 1970.
        """
        if not self._loggers:
            return
        try:
            table = rows_of_step(step, builder.prompts(most_telling_rows(rows, self._trees), began))
            if table:
                self._tables.put_nowait((step, table))
        except queue.Full:
            logger.warning(
                "the table of trees of step %d is left out: %s has not taken the one before it",
                step,
                ", ".join(self._loggers),
            )
        except Exception:  # what can't be looked at afterwards is no reason to end a training
            logger.exception("no table of trees of step %d can be made", step)

    def close(self, seconds: float = LAST_SECONDS) -> None:
        """Wait until the last table is logged, for so long at most. A second call does nothing."""
        end = time.monotonic() + seconds
        if not self._thread.is_alive():
            return
        try:
            self._tables.put(None, timeout=seconds)
            self._thread.join(max(0.0, end - time.monotonic()))
        except queue.Full:
            pass
        if self._thread.is_alive():
            logger.warning("the last table of trees is not logged: a logger has taken more than %g s", seconds)

    def _run(self) -> None:
        while (task := self._tables.get()) is not None:
            step, table = task
            for name, opened in self._loggers.items():
                try:
                    WRITERS[name](opened, step, table)
                except Exception:  # a service that is away must not end a training
                    logger.exception("the table of trees of step %d can't be logged to %s", step, name)
