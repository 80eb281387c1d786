"""verl's trainer with rows of past steps, or of elsewhere, in its batches. Written against verl 0.9.1,
`trainer/ppo/v1/trainer_base.py`.

Rows come to the batch when it has its rewards and before it is balanced, so that all later passes see them: padding to
whole mini-batches, log-probabilities, the reference, values, advantages and the update. Without a source of replay the
class changes nothing.
"""

from typing import Any

from omegaconf import DictConfig
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from arpo_verl.integration.queue import KVBatchMeta
from arpo_verl.integration.training.replay_step import Replay
from arpo_verl.integration.training.step_folder import step_folder


class ReplayTrainer(PPOTrainer):
    """Lets the source of replay that a run has chosen take part in each step."""

    _replay: Replay | None = None

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        self._replay = Replay.of(config)
        super().__init__(config, *args, **kwargs)

    def _init_tokenizer(self) -> None:
        super()._init_tokenizer()
        if self._replay is not None:
            self._replay.begin(self.tokenizer, self.processor)

    def on_step_begin(self) -> None:
        super().on_step_begin()
        if self._replay is not None:
            self._replay.step_begins()

    def step(self, *args: Any, **kwargs: Any) -> KVBatchMeta:
        batch = super().step(*args, **kwargs)
        if self._replay is not None:
            self._replay.step_ends(self.global_steps)
        return batch

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> KVBatchMeta:
        if self._replay is not None:
            batch = self._replay.insert(batch, metrics, self.global_steps)
        return super()._balance_batch(batch, metrics, *args, **kwargs)

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_old_log_prob(batch, metrics)
        if self._replay is not None:
            self._replay.log_probs_are_there(batch, metrics)
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        if self._replay is not None:
            self._replay.advantages_are_there(batch, metrics, self.global_steps)
        return batch

    def _save_checkpoint(self) -> None:
        if self._replay is not None:
            # Before verl's own, after which the checkpoint counts as whole.
            self._replay.save(step_folder(self.config, self.global_steps))
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self._replay is not None and self.global_steps:
            self._replay.load(step_folder(self.config, self.global_steps, is_resumed=True))

    def _compute_metrics(self, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> None:
        """Leave replayed rows out of verl's means, which are of what the step has sampled, as it does with padding."""
        if self._replay is not None:
            replayed = self._replay.replayed
            tags = [
                tag | {"is_padding": True} if key in replayed else tag
                for key, tag in zip(batch.keys, batch.tags, strict=True)
            ]
            batch = KVBatchMeta(partition_id=batch.partition_id, keys=batch.keys, tags=tags)
        super()._compute_metrics(batch, *args, **kwargs)

    @property
    def replayed_steps(self) -> dict[str, int]:
        """The step in which each of the step's replayed rows was sampled, by key."""
        return {} if self._replay is None else {key: use.row.step for key, use in self._replay.replayed.items()}

    def without_additions(self, batch: KVBatchMeta) -> KVBatchMeta:
        """Return a batch without replayed rows that have come besides, in no leaf's place."""
        if self._replay is None:
            return batch
        besides = {key for key, use in self._replay.replayed.items() if use.replaces is None}
        pairs = [pair for pair in zip(batch.keys, batch.tags, strict=True) if pair[0] not in besides]
        keys, tags = [key for key, _ in pairs], [tag for _, tag in pairs]
        return KVBatchMeta(partition_id=batch.partition_id, keys=keys, tags=tags)

    def _log_rollout_data(self, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> None:
        """Leave rows that have come besides out of the rollout's JSONL."""
        super()._log_rollout_data(self.without_additions(batch), *args, **kwargs)

    def _dump_generations(self, *args: Any, **kwargs: Any) -> None:
        """Say in the rollout's JSONL which rows were replayed, and of which step they are."""
        columns = kwargs["reward_extra_infos_dict"]
        if self._replay is not None and kwargs["dump_path"] == self.config.trainer.get("rollout_data_dir"):
            steps = self.replayed_steps
            columns["arpo_replayed"] = [steps.get(key) for key in columns["uid"]]
        super()._dump_generations(*args, **kwargs)
