"""The V1 trainers with the one flag understood. Written against verl 0.9.1, `trainer/ppo/v1/trainer_base.py`.

verl looks a trainer up by `trainer.v1.trainer_mode`, and several places compare that name, so the registered names
have to stay. Each registered class is replaced by a subclass that changes nothing where the run is not ARPO's.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer

from arpo_verl.algorithms.arpo import PADDING
from arpo_verl.integration.advantage import TreeTensors, beside, entropy_after_tools
from arpo_verl.integration.logs import show_warnings
from arpo_verl.integration.loss_mask import empty_loss_masks
from arpo_verl.integration.settings import ENTROPY_ROLLOUT, TAG_AGENT, arpo_config, wants_arpo
from arpo_verl.integration.tool_guard import PaidCallsSpent, RunStopped, require_working_tools, warn_without_calls
from arpo_verl.rollout.metrics import LeafRecord, leaf_columns, reward_metrics, tool_metrics, tree_metrics

logger = logging.getLogger(__name__)

MANAGER = "arpo_verl.integration.worker.ArpoAgentLoopManager"


class ArpoTrainer(PPOTrainer):
    """Chooses the rollout, checks that every prompt has all its leaves, hands the trees to the estimator, logs them.

    Ends the run when its tools no longer work, with the state of the last finished step saved; also a run of another
    algorithm whose rollout is `tag_agent`. Not covered: validation, and groups that verl's filter drops before.
    """

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        show_warnings()
        if wants_arpo(config):
            arpo_config(config).roots(config.actor_rollout_ref.rollout.n)
            choose_manager(config)
            choose_rollout(config)
        super().__init__(config, *args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().fit(*args, **kwargs)
        except PaidCallsSpent as end:
            self._shutdown_dump_executor()
            logger.warning("training ends at step %d: %s", self.global_steps, end)

    def on_step_begin(self) -> None:
        super().on_step_begin()
        # For a run that ends in this step: the next one is to train on the same prompts again.
        is_kept = self.global_steps > 1 and self.trainer_mode == "sync"
        self._position_in_data = self.train_dataloader.state_dict() if is_kept else None

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        is_own = self.config.trainer.resume_mode == "auto"
        self._saved_step = self.global_steps if is_own else None

    def _save_checkpoint(self) -> None:
        super()._save_checkpoint()
        self._saved_step = self.global_steps

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        is_arpo = wants_arpo(self.config)
        if not is_arpo and self.config.actor_rollout_ref.rollout.agent.default_agent_loop != TAG_AGENT:
            return super()._compute_advantage(batch, metrics)
        fields = fields_of_leaves(batch)
        if not fields:  # rows may name another agent loop
            return super()._compute_advantage(batch, metrics)
        records = {key: LeafRecord(**of_leaf["arpo"]) for key, of_leaf in fields.items()}
        trees: dict[str, list[LeafRecord]] = defaultdict(list)
        for key, record in records.items():
            trees[prompt_of(key)].append(record)
        if is_arpo:
            self._expect_all_leaves(trees)
        metrics.update(tree_metrics(trees) if is_arpo else tool_metrics(trees))
        metrics.update(reward_metrics(of_leaf.get("reward_extra_info", {}) for of_leaf in fields.values()))
        warn_without_calls(metrics["tools/calls"], self.config, self.global_steps)
        with self._saving_state(batch, metrics):
            require_working_tools(trees, arpo_config(self.config))
            tensors = self._tree_tensors(batch, records, metrics) if is_arpo else None
        if tensors is None:
            return super()._compute_advantage(batch, metrics)
        with beside(tensors):
            return super()._compute_advantage(batch, metrics)

    @contextmanager
    def _saving_state(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> Iterator[None]:
        """Save the state of the last finished step when the run is stopped, and log what this step has measured."""
        try:
            yield
        except RunStopped as stop:
            where = self._save_last_finished_step(batch)
            numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
            self.logger.log(data=numbers, step=self.global_steps)
            raise type(stop)(f"{stop}. {where}") from None

    def _save_last_finished_step(self, batch: KVBatchMeta) -> str:
        """Return in words what is saved."""
        last_finished = self.global_steps - 1
        if last_finished == 0:
            return "No step has been finished, so there is nothing to save."
        if self.local_trigger_step > 0:
            return (
                f"Step {self.global_steps} has updated the weights already, so its state is not saved; the last "
                f"checkpoint is that of trainer.save_freq."
            )
        folder = Path(self.config.trainer.default_local_dir, f"global_step_{last_finished}")
        if self.trainer_mode != "sync":
            # The queue is part of a checkpoint: a resumed run must not find leaves in it whose tools failed.
            tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
            ask_again(batch.partition_id)
        if self.trainer_mode != "sync" or self._saved_step != last_finished:
            self.global_steps = last_finished
            self._save_checkpoint()
            self.global_steps += 1
            if self.trainer_mode == "sync":
                torch.save(self._position_in_data, folder / "data.pt")
        is_found = self.config.trainer.resume_mode == "auto"
        how = "the same command" if is_found else f"trainer.resume_mode=resume_path, resume_from_path={folder}"
        return f"The state of step {last_finished} is in {folder}; {how} goes on from there."

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
        return TreeTensors(config.advantage, segment_ids, is_excluded)

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

    def _dump_generations(self, *args: Any, **kwargs: Any) -> None:
        """Add each leaf's place in its tree to the rollout's JSONL (`trainer.rollout_data_dir`)."""
        columns = kwargs["reward_extra_infos_dict"]
        # Validation dumps through this method too, when its rows have left the queue already (verl's `_validate`).
        is_training = kwargs["dump_path"] == self.config.trainer.get("rollout_data_dir")
        if wants_arpo(self.config) and is_training:
            columns.update(leaf_columns(read_extra_fields(columns["uid"], "train")))
        super()._dump_generations(*args, **kwargs)


def ask_again(partition_id: str) -> None:
    """Have a resumed run grow the leaves of finished prompts anew (`trainer_base.py`, `_reissue_inflight_prompts`)."""
    tags = tq.kv_list(partition_id).get(partition_id, {})
    finished = {key: tag for key, tag in tags.items() if tag.get("is_prompt") and tag.get("status") == "finished"}
    if finished:
        again = [{**tag, "status": "pending"} for tag in finished.values()]
        tq.kv_batch_put(keys=list(finished), partition_id=partition_id, tags=again)


def prompt_of(key: str) -> str:
    """Return the prompt's id in a row's key, `{uid}_{session}_{index}`."""
    return key.rsplit("_", 2)[0]


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
