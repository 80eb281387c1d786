"""The V1 trainers with the one flag understood. Written against verl 0.9.1, `trainer/ppo/v1/trainer_base.py`.

verl looks a trainer up by `trainer.v1.trainer_mode`, and several places compare that name, so the registered names
have to stay. Each registered class is replaced by a subclass that changes nothing where the run is not ARPO's.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from ray.actor import ActorHandle
from transfer_queue import KVBatchMeta
from verl.experimental.agent_loop import AgentLoopManager
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer

from arpo_verl.algorithms.arpo import PADDING
from arpo_verl.integration.advantage import TreeTensors, beside, entropy_after_tools
from arpo_verl.integration.logs import show_warnings
from arpo_verl.integration.loss_mask import empty_loss_masks
from arpo_verl.integration.lost_leaves import lost_fraction, require_enough_leaves, reward_failures
from arpo_verl.integration.process_watch import ProcessDied, ProcessWatch
from arpo_verl.integration.save_on_stop import SaveOnStop
from arpo_verl.integration.settings import ENTROPY_ROLLOUT, TAG_AGENT, arpo_config, wants_arpo
from arpo_verl.integration.tool_guard import PaidCallsSpent, RunStopped, require_working_tools, warn_without_calls
from arpo_verl.rollout.metrics import LeafRecord, Trees, leaf_columns, reward_metrics, tool_metrics, tree_metrics

logger = logging.getLogger(__name__)

QUEUE = "TransferQueue's"
"""What the names of the queue's processes begin with."""
MANAGER = "arpo_verl.integration.worker.ArpoAgentLoopManager"


class ArpoTrainer(PPOTrainer):
    """Chooses the rollout, checks that every prompt has all its leaves, hands the trees to the estimator, logs them.

    A run whose rollout is `tag_agent`, of whatever algorithm, ends with the last finished step saved: when its tools no
    longer work, when a process dies, when nothing happens any more, and by any other error. Not covered: tools in
    validation, and groups that verl's filter drops before.
    """

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        show_warnings()
        if wants_arpo(config):
            arpo_config(config).roots(config.actor_rollout_ref.rollout.n)
            choose_rollout(config)
        self._is_ours = wants_arpo(config) or config.actor_rollout_ref.rollout.agent.default_agent_loop == TAG_AGENT
        if self._is_ours:
            choose_manager(config)
        self._state = SaveOnStop(self)
        self._measured: dict[str, Any] = {}
        """The metrics of a step that has begun."""
        self._without_reward: set[str] = set()
        """Keys of the step's leaves whose reward is not a number."""
        super().__init__(config, *args, **kwargs)

    def fit(self, agent_loop_manager: AgentLoopManager) -> None:
        """Train; on any error save the last finished step, and say where it is in the error.

        Raises:
            RunStopped: the run can't go on; the message has the cause and what is saved.
        """
        if not self._is_ours:
            super().fit(agent_loop_manager)
            return
        try:
            with self._watch(agent_loop_manager).watching():
                super().fit(agent_loop_manager)
        except PaidCallsSpent as end:
            where = self._stop(are_leaves_bad=True)
            self._shutdown_dump_executor()
            logger.warning("training ends at step %d: %s. %s", self.global_steps, end, where)
        except ProcessDied as death:
            where = self._stop(are_leaves_bad=False, is_queue_dead=death.is_among(QUEUE))
            raise RunStopped(f"{death}. {where}") from None
        except RunStopped as stop:
            where = self._stop(are_leaves_bad=True)
            raise RunStopped(f"{stop}. {where}") from None
        except (Exception, SystemExit) as error:
            where = self._stop(are_leaves_bad=False)
            raise RunStopped(
                f"the run ended in step {self.global_steps} by {type(error).__name__}: {error}. {where}"
            ) from error

    def _watch(self, agent_loop_manager: AgentLoopManager) -> ProcessWatch:
        actors = {
            **_numbered("agent loop worker", agent_loop_manager.agent_loop_workers),
            **_numbered("reward worker", self.reward_loop_manager.reward_loop_workers),
            **_numbered("inference server", self.llm_server_manager.server_handles),
            "load balancer": self.llm_server_manager.global_load_balancer,
            **queue_actors(),
        }
        return ProcessWatch(actors, self._progress, arpo_config(self.config).max_stall_seconds)

    def _progress(self) -> tuple[int, ...] | None:
        """Return counts that change when leaves come; None while the trainer does not wait for any."""
        if not self._state.is_sampling:
            return None
        buffer = self.replay_buffer
        kinds = (buffer.pending_keys, buffer.running_keys, buffer.finished_keys, buffer.failure_keys, buffer.partitions)
        return tuple(sum(map(len, list(kind.values()))) for kind in kinds)

    def _stop(self, are_leaves_bad: bool, is_queue_dead: bool = False) -> str:
        """Save, log what the step has measured, and return in words what is saved."""
        where = self._state.save(are_leaves_bad, is_queue_dead)
        numbers = {name: value for name, value in self._measured.items() if isinstance(value, (int, float))}
        try:
            if numbers:
                self.logger.log(data=numbers, step=self.global_steps)
        except Exception:  # the error that ends the run is the one to report
            logger.exception("what step %d has measured could not be logged", self.global_steps)
        return where

    def on_step_begin(self) -> None:
        super().on_step_begin()
        self._measured, self._without_reward = {}, set()
        self._state.step_begins()

    def on_sample_begin(self) -> None:
        self._state.sampling(True)
        super().on_sample_begin()

    def on_sample_end(self) -> None:
        super().on_sample_end()
        self._state.sampling(False)

    def _validate(self) -> dict[str, float]:
        self._state.sampling(True)
        try:
            metrics: dict[str, float] = super()._validate()
        finally:
            self._state.sampling(False)
        return metrics

    def step(self, *args: Any, **kwargs: Any) -> KVBatchMeta:
        batch = super().step(*args, **kwargs)
        self._state.step_ends()
        self._measured = {}
        return batch

    def _update_critic(self, *args: Any, **kwargs: Any) -> KVBatchMeta:
        self._state.update_begins()
        return super()._update_critic(*args, **kwargs)

    def _update_actor(self, *args: Any, **kwargs: Any) -> KVBatchMeta:
        self._state.update_begins()
        return super()._update_actor(*args, **kwargs)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        self._state.loaded()

    def _save_checkpoint(self) -> None:
        super()._save_checkpoint()
        self._state.saved()

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if not self._is_ours:
            return super()._compute_advantage(batch, metrics)
        self._state.sampled(batch)
        self._measured = metrics
        is_arpo = wants_arpo(self.config)
        fields = fields_of_leaves(batch)
        if not fields:  # rows may name another agent loop
            return super()._compute_advantage(batch, metrics)
        records = {key: LeafRecord(**of_leaf["arpo"]) for key, of_leaf in fields.items()}
        trees: dict[str, list[LeafRecord]] = defaultdict(list)
        for key, record in records.items():
            trees[prompt_of(key) if is_arpo else session_of(key)].append(record)
        metrics.update(tree_metrics(trees) if is_arpo else tool_metrics(trees))
        metrics.update(reward_metrics(of_leaf.get("reward_extra_info", {}) for of_leaf in fields.values()))
        warn_without_calls(metrics["tools/calls"], self.config, self.global_steps)
        require_working_tools(trees, arpo_config(self.config))
        if not is_arpo:
            return super()._compute_advantage(batch, metrics)
        self._require_enough_leaves(trees, fields, metrics)
        with beside(self._tree_tensors(batch, records, metrics)):
            return super()._compute_advantage(batch, metrics)

    def _require_enough_leaves(self, trees: Trees, fields: dict[str, Any], metrics: dict[str, Any]) -> None:
        prompts = self.config.data.train_batch_size // self.parameter_sync_step
        failures = reward_failures(fields)
        fraction = lost_fraction(trees, prompts, self.config.actor_rollout_ref.rollout.n, failures)
        metrics["arpo/failed_fraction"] = fraction
        require_enough_leaves(fraction, arpo_config(self.config).max_failed_fraction, failures)

    def _tree_tensors(self, batch: KVBatchMeta, records: dict[str, LeafRecord], metrics: dict[str, Any]) -> TreeTensors:
        """Collect what the estimator needs; log the actor's entropies; leave out rewards that are no numbers."""
        config = arpo_config(self.config)
        fields = ["segment_ids", "response_mask", "rm_scores", "entropy"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        is_padding = [tag.get("is_padding", False) for tag in batch.tags]
        segment_ids = [
            # verl's padding rows are copies of a leaf with a response of one token (`padding_utils.py`).
            torch.full_like(mask, PADDING) if padding else ids
            for ids, mask, padding in zip(
                data["segment_ids"].unbind(), data["response_mask"].unbind(), is_padding, strict=True
            )
        ]
        if "entropy" in data:  # the actor has none in bypass mode
            entropy, mask = data["entropy"].to_padded_tensor(0.0), data["response_mask"].to_padded_tensor(0)
            metrics.update(entropy_after_tools(entropy, mask, config.probe_tokens))
        has_no_reward = ~torch.stack([scores.sum() for scores in data["rm_scores"].unbind()]).isfinite()
        metrics["arpo/bad_reward_fraction"] = int(has_no_reward.sum()) / len(records)
        is_excluded = has_no_reward | torch.tensor(
            [padding or records[key].is_excluded for key, padding in zip(batch.keys, is_padding, strict=True)]
        )
        if bool(is_excluded.all()):
            raise RunStopped(
                f"all {len(records)} leaves are left out (arpo.exclude={list(config.exclude)}, or their rewards are "
                f"no numbers); expected one to train on: look at the rollout's stop reasons, or exclude less"
            )
        empty_loss_masks(batch, data["response_mask"].unbind(), has_no_reward)
        self._without_reward.update(key for key, is_so in zip(batch.keys, has_no_reward.tolist(), strict=True) if is_so)
        return TreeTensors(config.advantage, segment_ids, is_excluded)

    def _compute_metrics(self, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> None:
        """Leave leaves whose reward is not a number out of verl's means, as it does with padding."""
        tags = [
            tag | {"is_padding": True} if key in self._without_reward else tag
            for key, tag in zip(batch.keys, batch.tags, strict=True)
        ]
        counted = KVBatchMeta(partition_id=batch.partition_id, keys=batch.keys, tags=tags)
        super()._compute_metrics(counted, *args, **kwargs)

    def _dump_generations(self, *args: Any, **kwargs: Any) -> None:
        """Add each leaf's place in its tree to the rollout's JSONL (`trainer.rollout_data_dir`)."""
        columns = kwargs["reward_extra_infos_dict"]
        # Validation dumps through this method too, when its rows have left the queue already (verl's `_validate`).
        is_training = kwargs["dump_path"] == self.config.trainer.get("rollout_data_dir")
        if wants_arpo(self.config) and is_training:
            columns.update(leaf_columns(read_extra_fields(columns["uid"], "train")))
        super()._dump_generations(*args, **kwargs)


def prompt_of(key: str) -> str:
    """Return the prompt's id in a row's key, `{uid}_{session}_{index}`."""
    return key.rsplit("_", 2)[0]


def session_of(key: str) -> str:
    """Return the session's id in a row's key."""
    return key.rsplit("_", 1)[0]


def _numbered(name: str, actors: Sequence[ActorHandle]) -> dict[str, ActorHandle]:
    return {f"{name} {number}": actor for number, actor in enumerate(actors)}


def queue_actors() -> dict[str, ActorHandle]:
    """Return the actors of TransferQueue (0.1.11, `interface.py`, keeps the storage units to itself)."""
    storage = list(((tq.interface._TQ_STORAGE or {}).get("SimpleStorage") or {}).values())
    controller = ray.get_actor("TransferQueueController", namespace="transfer_queue")
    return {f"{QUEUE} controller": controller, **_numbered(f"{QUEUE} storage unit", storage)}


def read_extra_fields(keys: list[str], partition_id: str) -> list[dict[str, Any]]:
    """Fetch what the worker has written beside the tensors of each row."""
    rows = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields"])
    return list(rows["extra_fields"])


def fields_of_leaves(batch: KVBatchMeta) -> dict[str, dict[str, Any]]:
    """Fetch the extra fields of each leaf of a batch, by key, without padding rows and leaves of other agent loops."""
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    rows = read_extra_fields(keys, batch.partition_id)
    return {key: row for key, row in zip(keys, rows, strict=True) if "arpo" in row}


def choose_manager(config: DictConfig) -> None:
    """Set the key by which verl's task runner finds its agent loop manager (`trainer/main_ppo.py`).

    Raises:
        ValueError: an ARPO run names another manager, which would not grow trees.
    """
    agent = config.actor_rollout_ref.rollout.agent
    chosen = agent.get("agent_loop_manager_class")
    if chosen not in (None, MANAGER):
        if not wants_arpo(config):
            return
        raise ValueError(
            f"actor_rollout_ref.rollout.agent.agent_loop_manager_class={chosen!r}; expected it unset or {MANAGER!r}: "
            f"with algorithm.adv_estimator=arpo the rollout is ARPO's own"
        )
    with open_dict(config):
        agent.agent_loop_manager_class = MANAGER


def choose_rollout(config: DictConfig) -> None:
    """Take the replica that measures entropies in place of verl's vLLM where they are wanted."""
    rollout = config.actor_rollout_ref.rollout
    if rollout.name == "vllm" and arpo_config(config).entropy_source == "topk":
        rollout.name = ENTROPY_ROLLOUT


def register_arpo_trainers() -> None:
    """Replace every trainer that verl has registered; a second call changes nothing."""
    for name, stock in list(TRAINER_REGISTRY.items()):
        if not issubclass(stock, ArpoTrainer):
            TRAINER_REGISTRY[name] = type(f"Arpo{stock.__name__}", (ArpoTrainer, stock), {})
