"""The V1 trainers with the one flag understood. Written against verl 0.9.1, `trainer/ppo/v1/trainer_base.py`.

verl looks a trainer up by `trainer.v1.trainer_mode`, and several places compare that name, so the registered names
have to stay. Each registered class is replaced by a subclass that changes nothing where the run is not ARPO's.
"""

from collections import defaultdict
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer

from arpo_verl.integration.settings import arpo_config, wants_arpo
from arpo_verl.rollout.metrics import LeafRecord, tree_metrics

MANAGER = "arpo_verl.integration.worker.ArpoAgentLoopManager"


class ArpoTrainer(PPOTrainer):
    """Chooses the rollout, checks that every prompt has all its leaves, and logs the trees."""

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        if wants_arpo(config):
            arpo_config(config).roots(config.actor_rollout_ref.rollout.n)
            choose_manager(config)
        super().__init__(config, *args, **kwargs)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if not wants_arpo(self.config):
            return super()._compute_advantage(batch, metrics)
        trees = self._trees(batch)
        self._expect_all_leaves(trees)
        metrics.update(tree_metrics(trees))
        return super()._compute_advantage(batch, metrics)

    def _trees(self, batch: KVBatchMeta) -> dict[str, list[LeafRecord]]:
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        rows = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        trees: dict[str, list[LeafRecord]] = defaultdict(list)
        for key, extra_fields in zip(keys, list(rows["extra_fields"]), strict=True):
            uid = key.rsplit("_", 2)[0]
            trees[uid].append(LeafRecord(**extra_fields["arpo"]))
        return trees

    def _expect_all_leaves(self, trees: dict[str, list[LeafRecord]]) -> None:
        """A prompt whose rollout failed stays sampleable in verl's sync mode; training on its rest would be biased."""
        prompts = self.config.data.train_batch_size // self.parameter_sync_step
        short = [
            f"{uid}: {len(tree)} of {tree[0].leaves}" for uid, tree in trees.items() if len(tree) != tree[0].leaves
        ]
        if short or len(trees) != prompts:
            raise RuntimeError(
                f"got {len(trees)} of {prompts} prompts, leaves missing in {short or 'none of them'}; expected every "
                f"leaf of every prompt: the cause is in the log above, at 'the rollout of prompt'"
            )


def choose_manager(config: DictConfig) -> None:
    """Set the key by which verl's task runner finds its agent loop manager (`trainer/main_ppo.py`).

    Raises:
        ValueError: it names another manager, which would not grow trees.
    """
    agent = config.actor_rollout_ref.rollout.agent
    chosen = agent.get("agent_loop_manager_class")
    if chosen not in (None, MANAGER):
        raise ValueError(
            f"actor_rollout_ref.rollout.agent.agent_loop_manager_class={chosen!r}; expected it unset or {MANAGER!r}: "
            f"with algorithm.adv_estimator=arpo the rollout is ARPO's own"
        )
    with open_dict(config):
        agent.agent_loop_manager_class = MANAGER


def register_arpo_trainers() -> None:
    """Replace every trainer that verl has registered; a second call changes nothing."""
    for name, stock in list(TRAINER_REGISTRY.items()):
        if not issubclass(stock, ArpoTrainer):
            TRAINER_REGISTRY[name] = type(f"Arpo{stock.__name__}", (ArpoTrainer, stock), {})
