"""What ARPO's runs see in verl's replay buffers: the leaves that have come and the prompts that have failed.

Written against verl 0.9.1, `trainer/ppo/v1/replay_buffer.py`, whose buffers replace a prompt that fails by a new one:
the asynchronous ones always, the synchronous one where `trainer.v1.sampler.sync_refill_failed_groups` says so. They do
it without a limit, so that a run in which every rollout fails would go on for ever and train nothing.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from arpo_verl.integration.queue import read_tags
from arpo_verl.integration.training.lost_leaves import FAILURE, require_few_replacements

logger = logging.getLogger(__name__)


class LeafCount:
    """Counts what comes into a replay buffer; bounds how many prompts of a step are replaced because they failed."""

    def __init__(self, prompts: int, at_most: float) -> None:
        """
        Args:
            prompts: those that a step trains on.
            at_most: share of the failed ones among those that a step has asked for (`arpo.max_failed_fraction`).
        """
        self._prompts, self._at_most = prompts, at_most
        self._failed = 0
        self._there: set[str] = set()
        self.come = 0
        """Leaves that have ever come. Never falls, so that it changes when a leaf comes and by nothing else."""

    def step_begins(self) -> None:
        """Failures are counted anew."""
        self._failed = 0

    def look(self, partitions: Mapping[str, Iterable[str]]) -> None:
        """Count the leaves that were not there at the last look; `partitions` has the keys of all that are there."""
        there = {key for keys in list(partitions.values()) for key in keys}
        self.come += len(there - self._there)
        self._there = there

    def replace(self, failed: set[str], partition_id: str) -> None:
        """These prompts have failed and are about to be replaced.

        Raises:
            RunStopped: too many of the step's have.
        """
        if failed:
            self._failed += len(failed)
            require_few_replacements(self._failed, self._prompts, self._at_most, lambda: first_failure(partition_id))


def first_failure(partition_id: str) -> str | None:
    """Return why a prompt that is in the queue has failed, as the worker says it."""
    return next((str(tags[FAILURE]) for tags in read_tags(partition_id).values() if tags.get(FAILURE)), None)


class CountingBuffer(ReplayBuffer):
    """A replay buffer of verl's whose leaves and failures are counted."""

    leaf_count: LeafCount

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()
        self.leaf_count.look(self.partitions)

    def _evict_terminal_groups(
        self, global_steps: int, partition_id: str, eviction_reasons: tuple[set[str], set[str], set[str], Counter[str]]
    ) -> tuple[set[str], int, int, dict[str, Any]]:
        self.leaf_count.replace(eviction_reasons[2], partition_id)
        evicted: tuple[set[str], int, int, dict[str, Any]] = super()._evict_terminal_groups(
            global_steps, partition_id, eviction_reasons
        )
        return evicted


def count_leaves(buffer: object, leaf_count: LeafCount) -> None:
    """Let a buffer that verl has made, of whichever of its classes or a user's subclass of them, be counted in.

    Another kind of buffer (`trainer.v1.sampler.custom_sampler`) is left alone, with a word in the log.
    """
    if not isinstance(buffer, ReplayBuffer):
        logger.warning(
            "trainer.v1.sampler.custom_sampler is %s, no ReplayBuffer of verl's: arpo.max_failed_fraction does not "
            "bound what it replaces, and no leaf that comes counts for arpo.max_stall_seconds",
            type(buffer).__name__,
        )
        return
    kind = type(buffer)
    buffer.__class__ = type(f"Counting{kind.__name__}", (CountingBuffer, kind), {"leaf_count": leaf_count})


class PromptReplayBuffer(ReplayBuffer):
    """verl's buffer for small runs: looks every 0.1 s.

    verl's own looks for finished prompts every 2 s, longer than the whole generation of a tiny model. Chosen by verl's
    own key `trainer.v1.sampler.custom_sampler.{path,name}`; verl then passes no group-filtering options, so use it only
    without.
    """

    def __init__(self, **kwargs: Any) -> None:
        if kwargs["trainer_mode"] != "sync":
            raise ValueError(
                f"trainer.v1.trainer_mode={kwargs['trainer_mode']!r} with PromptReplayBuffer; expected 'sync': set "
                f"trainer.v1.sampler.custom_sampler.path=null, so that verl takes its own buffer for that mode"
            )
        super().__init__(poll_interval=0.1, **kwargs)
