"""verl's trainer asking its engines to pack rows, in an order in which that pays. Written against verl 0.9.1,
`trainer/ppo/v1/trainer_base.py`.

What a rank computes of a mini-batch holds whole trees (`row_order.py`); which prompts form a mini-batch is all that
this changes. Without packing, a run of ours takes its rows in the order of its prompts too, so that it can be repeated.
"""

from typing import Any

from omegaconf import DictConfig
from verl.experimental.agent_loop import AgentLoopManager
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.seqlen_balancing import log_seqlen_unbalance

from arpo_verl.integration.packing.engine import PACK_TREES
from arpo_verl.integration.packing.mode import packing_mode
from arpo_verl.integration.packing.row_order import order_by_cells, order_of_prompts
from arpo_verl.integration.queue import KVBatchMeta, read_columns
from arpo_verl.integration.row_key import prompt_of


class PackingTrainer(PPOTrainer):
    """Orders the rows of each step and tells all passes over them whether to pack."""

    _prompt_places: dict[str, int] | None = None

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        self._packing_mode = packing_mode(config)
        super().__init__(config, *args, **kwargs)

    def fit(self, agent_loop_manager: AgentLoopManager) -> None:
        self._prompt_places = getattr(agent_loop_manager, "prompt_places", None)
        super().fit(agent_loop_manager)

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> KVBatchMeta:
        if self._prompt_places is not None:
            batch.reorder(order_of_prompts(batch.keys, self._prompt_places))
            for prompt in {prompt_of(key) for key in batch.keys}:
                self._prompt_places.pop(prompt, None)
        batch = super()._balance_batch(batch, metrics, *args, **kwargs)
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        if self._packing_mode == "off" or ranks == 1:
            return batch
        return self._balance_trees(batch, metrics, ranks)

    def _balance_trees(self, batch: KVBatchMeta, metrics: dict[str, Any], ranks: int) -> KVBatchMeta:
        """Lay whole trees over ranks and mini-batches; where they don't fill them, leave the rows in verl's order."""
        actor = self.config.actor_rollout_ref.actor
        of_mini_batch = actor.ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n
        # A shuffled rank mixes its mini-batches.
        mini_batches = 1 if actor.shuffle else len(batch.keys) // of_mini_batch
        tokens = read_columns(batch.keys, batch.partition_id, ["input_ids"])["input_ids"]
        is_padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        parts = order_by_cells(batch.keys, is_padding, [one.numpy() for one in tokens], ranks, mini_batches)
        if parts is None:
            return batch
        lengths = [int(tag["seq_len"]) for tag in batch.tags]
        metrics.update(log_seqlen_unbalance(seqlen_list=lengths, partitions=parts, prefix="global_seqlen"))
        batch.reorder([row for part in parts for row in part])
        return batch

    def _asked(self, batch: KVBatchMeta) -> KVBatchMeta:
        batch.extra_info[PACK_TREES] = self._packing_mode
        return batch

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return super()._compute_old_log_prob(self._asked(batch), metrics)

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return super()._compute_ref_log_prob(self._asked(batch), metrics)

    def _compute_values(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return super()._compute_values(self._asked(batch), metrics)

    def _update_critic(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return super()._update_critic(self._asked(batch), metrics)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return super()._update_actor(self._asked(batch), metrics)
