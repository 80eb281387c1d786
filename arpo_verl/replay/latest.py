"""The latest success of each task, put into groups that fail as a whole (RAPO in Fathom-Search, arXiv 2509.24107).

Known of the paper: a buffer with the latest success of each prompt, which is put into groups that have failed. Its
scaling of advantages by the share of informative groups and its pruning of solved prompts are left out; their exact
form is not verified.
"""

import random
from collections.abc import Sequence

from arpo_verl.replay.own import Own
from arpo_verl.replay.store.row import StoredRow
from arpo_verl.replay.store.source import ReplayContext


class Latest(Own):
    """`Own` with one success a task, the latest."""

    def __init__(  # noqa: PLR0913  settings
        self,
        context: ReplayContext,
        *,
        success: float | None = None,
        trigger: str = "all_failed",
        std_below: float = 0.05,
        mean_below: float = 0.2,
        capacity: int = 2048,
        max_age: int | None = None,
        old_log_prob: str = "current",
        weight: float = 1.0,
    ) -> None:
        """The arguments are those of `Own`."""
        super().__init__(
            context,
            success=success,
            trigger=trigger,
            std_below=std_below,
            mean_below=mean_below,
            per_task=1,
            capacity=capacity,
            max_age=max_age,
            old_log_prob=old_log_prob,
            weight=weight,
        )

    def pick(self, rows: Sequence[StoredRow], generator: random.Random) -> StoredRow:
        return rows[-1]
