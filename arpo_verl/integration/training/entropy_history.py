"""The mean entropy of past steps, for a loss that compares with it. It is part of a checkpoint."""

import json
import math
from pathlib import Path

FILE = "arpo_entropy_history.json"
"""In the folder of a step's checkpoint."""


class EntropyHistory:
    """Mean over the batches of finished steps of each batch's mean entropy of sampled tokens, in nats."""

    def __init__(self) -> None:
        self._total, self._batches = 0.0, 0
        self._of_this_step: list[float] = []

    @property
    def mean(self) -> float:
        """The mean of all finished steps, or NaN before there is one."""
        return self._total / self._batches if self._batches else math.nan

    def step_begins(self) -> None:
        """A step begins; what was seen of one that has not been finished does not count."""
        self._of_this_step = []

    def seen(self, batch_mean: float) -> None:
        """The step that has begun has a batch of this mean entropy; one without an entropy does not count."""
        if math.isfinite(batch_mean):
            self._of_this_step.append(batch_mean)

    def step_ends(self) -> None:
        """The step is finished, and belongs to the past."""
        self._total += math.fsum(self._of_this_step)
        self._batches += len(self._of_this_step)
        self._of_this_step = []

    def save(self, folder: Path) -> None:
        """Write to a step's folder."""
        (folder / FILE).write_text(json.dumps({"total": self._total, "batches": self._batches}))

    def load(self, folder: Path) -> None:
        """Read from a step's folder; where nothing is there, the past begins anew."""
        if (folder / FILE).is_file():
            saved = json.loads((folder / FILE).read_text())
            self._total, self._batches = float(saved["total"]), int(saved["batches"])
