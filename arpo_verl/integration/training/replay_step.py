"""What a run with a source of replay does in a step: asks it, checks its answers, puts the rows, keeps the new ones."""

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch.nn.utils.rnn import pad_sequence

from arpo_verl.integration.queue import KVBatchMeta, read_columns
from arpo_verl.integration.training.policy_loss import ChosenLoss
from arpo_verl.integration.training.replay_rows import (
    GrownLeaf,
    mean_advantages,
    put_advantages,
    put_replayed,
    read_groups,
    read_past,
    settle_log_probs,
)
from arpo_verl.integration.training.replay_source import FILE, context_of, source_of
from arpo_verl.losses import ROW_WEIGHT
from arpo_verl.replay import Group, ReplaySource, State, Use
from arpo_verl.replay.store.files import read_rows, write_rows
from arpo_verl.replay.store.row import problem_of

logger = logging.getLogger(__name__)


class Replay:
    """Follows a trainer through its steps. Only finished steps belong to the past that the source knows."""

    def __init__(self, config: DictConfig, source: ReplaySource) -> None:
        self._config, self._source = config, source
        loss = ChosenLoss.of(config)
        self._is_weighted_by_loss = loss is not None and loss.wants(ROW_WEIGHT)
        self._context = source.context
        self._has_media = False
        self.step_begins()

    @classmethod
    def of(cls, config: DictConfig) -> "Replay | None":
        """Return what a configuration asks for; None where it asks for no replay.

        Raises:
            ValueError: see `source_of`.
        """
        source = source_of(config)
        return None if source is None else cls(config, source)

    @property
    def replayed(self) -> Mapping[str, Use]:
        """The step's replayed rows by key."""
        return self._uses

    def begin(self, tokenizer: Any, processor: Any) -> None:
        """The tokenizer is loaded.

        Raises:
            ValueError: a file of the source's settings can't be used with it.
        """
        self._context, self._has_media = context_of(self._config, tokenizer), processor is not None
        self._source.begin(self._context)

    def step_begins(self) -> None:
        """Forget a step that has not been finished."""
        self._uses: dict[str, Use] = {}
        self._leaves: dict[str, GrownLeaf] = {}
        self._means: list[float] = []
        self._kept: list[Any] = []

    def insert(self, batch: KVBatchMeta, metrics: dict[str, Any], step: int) -> KVBatchMeta:
        """Put what the source chooses into a step's batch, once all rewards are there and nothing else is computed.

        Raises:
            ValueError: a source has answered something that can't be done.
        """
        groups, self._leaves = read_groups(batch, self._has_media)
        self._means = [group.mean for group in groups if group.counted]
        chosen = self._source.choose(groups, step)
        _require_possible(chosen, groups)
        uses = [use for use in chosen if not self._problem(use)]
        metrics.update(_metrics(groups, uses))
        metrics["replay/refused"] = len(chosen) - len(uses)
        if not uses:
            return batch
        before = set(batch.keys)
        batch = put_replayed(batch, uses, self._leaves, step)
        besides = [key for key in batch.keys if key not in before]
        keys = [use.replaces.key for use in uses if use.replaces is not None]
        ordered = [use for use in uses if use.replaces is not None] + [use for use in uses if use.replaces is None]
        self._uses = dict(zip([*keys, *besides], ordered, strict=True))
        return batch

    def _problem(self, use: Use) -> str | None:
        """Return why a row is not used, and say it in the log: what others have written must not end a run."""
        problem = problem_of(use.row, self._context.limits)
        if problem is None and use.replaces is not None:
            prompt = self._leaves[use.replaces.key].prompt_ids.tolist()
            problem = None if use.row.prompt_ids.tolist() == prompt else "another prompt than the leaf's"
        if problem is not None:
            logger.warning("a row of arpo.replay (step %d, %s) is not used: %s", use.row.step, use.row.origin, problem)
        return problem

    def log_probs_are_there(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> None:
        """Put the log-probabilities of replayed rows, and leave them out of verl's comparison of two engines."""
        if not self._uses:
            return
        from verl import DataProto
        from verl.utils.debug.metrics import calculate_debug_metrics

        settle_log_probs(batch.partition_id, self._uses)
        if "training/rollout_probs_diff_valid" not in metrics:
            return
        keys = [key for key in batch.keys if key not in self._uses]
        names = ["rollout_log_probs", "old_log_probs", "response_mask", "responses"]
        data = read_columns(keys, batch.partition_id, names)
        columns = {name: pad_sequence(data[name], batch_first=True) for name in names}
        metrics.update(calculate_debug_metrics(DataProto.from_single_dict(columns)))

    def advantages_are_there(self, batch: KVBatchMeta, metrics: dict[str, Any], step: int) -> None:
        """Put the advantages of replayed rows, and read the leaves that the source keeps."""
        put_advantages(batch.partition_id, self._uses, self._is_weighted_by_loss)
        own = {key: leaf for key, leaf in self._leaves.items() if key not in self._uses}
        advantages = mean_advantages(batch, own)
        keys = [key for key, mean in advantages.items() if self._source.keeps(own[key].in_group.reward, mean)]
        self._kept = read_past(batch, keys, own, step)
        metrics["replay/kept"] = len(keys)
        metrics.update({f"replay/{name}": value for name, value in self._source.metrics().items()})

    def step_ends(self, step: int) -> None:
        """The step is finished."""
        self._source.finish(self._kept, self._means, step)
        self._leaves, self._means, self._kept = {}, [], []

    def save(self, folder: Path) -> None:
        """Write to a step's folder, which may not be there yet."""
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / FILE, self._source.state(), self._context.tokenizer)

    def load(self, folder: Path) -> None:
        """Read from a step's folder; where nothing is there, the past begins anew.

        Raises:
            ValueError: what is there is damaged, or of another tokenizer.
        """
        if not (folder / FILE).is_file():
            logger.warning("%s has no %s: replay begins with an empty store", folder, FILE)
            return
        state = read_rows(folder / FILE, self._context.tokenizer)
        rows = [row for row in state.rows if problem_of(row, self._context.limits) is None]
        if len(rows) < len(state.rows):
            logger.warning(
                "%d of %d stored rows are left out: %s",
                len(state.rows) - len(rows),
                len(state.rows),
                next(problem for row in state.rows if (problem := problem_of(row, self._context.limits))),
            )
        self._source.load(State(rows, state.numbers))


def _require_possible(uses: Sequence[Use], groups: Sequence[Group]) -> None:
    """Check the answers of a source, which may be the user's own.

    Raises:
        ValueError: one of them can't be done.
    """
    counted = {leaf.key for group in groups for leaf in group.counted}
    taken: set[str] = set()
    for use in uses:
        key = None if use.replaces is None else use.replaces.key
        problem = None
        if key is not None and (key not in counted or key in taken):
            problem = f"the leaf {key} is to be replaced, which does not count or is replaced already"
        elif key is None and use.advantage is None:
            problem = "a row that takes no leaf's place has no advantage, and no group to estimate it in"
        elif use.advantage is not None and not math.isfinite(use.advantage):
            problem = f"the advantage is {use.advantage}"
        elif not 0 <= use.weight < math.inf:
            problem = f"the weight is {use.weight}"
        elif use.old_log_prob == "stored" and use.row.old_log_probs is None:
            problem = "old_log_prob is 'stored', and the row has none"
        if problem is not None:
            raise ValueError(
                f"arpo.replay has chosen what can't be done: {problem}; expected a `Use` as arpo_verl.replay says: "
                f"correct the source's `choose`"
            )
        taken |= {key} if key is not None else set()


def _metrics(groups: Sequence[Group], uses: Sequence[Use]) -> dict[str, float]:
    """Return what is logged of a step's choice."""
    replaced = {use.replaces.key for use in uses if use.replaces is not None}
    helped = sum(any(leaf.key in replaced for leaf in group.leaves) for group in groups)
    flat = sum(len({leaf.reward for leaf in group.counted}) == 1 for group in groups)
    rewards = [leaf.reward for group in groups for leaf in group.counted]
    metrics: dict[str, float] = {"replay/used": len(uses)}
    if groups:
        metrics |= {"replay/helped_fraction": helped / len(groups), "replay/flat_fraction": flat / len(groups)}
    if rewards:
        metrics["replay/grown_reward"] = statistics.fmean(rewards)
    if uses:
        metrics["replay/age"] = statistics.fmean(use.age for use in uses)
        metrics["replay/weight"] = statistics.fmean(use.weight for use in uses)
    return metrics
