"""The V1 trainers with the one flag understood. Written against verl 0.9.1, `trainer/ppo/v1/trainer_base.py`.

verl looks a trainer up by `trainer.v1.trainer_mode`, and several places compare that name, so the registered names
have to stay. Each registered class is replaced by a subclass that changes nothing where the run is not ARPO's.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, open_dict
from ray.actor import ActorHandle
from torch.nn.utils.rnn import pad_sequence
from verl.experimental.agent_loop import AgentLoopManager
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

from arpo_verl.integration.logs import show_warnings
from arpo_verl.integration.packing.packing_trainer import PackingTrainer
from arpo_verl.integration.queue import QUEUE, KVBatchMeta, queue_actors, read_columns
from arpo_verl.integration.row_key import prompt_of, session_of
from arpo_verl.integration.serving.server import choose_rollout
from arpo_verl.integration.settings import RunParts, arpo_config
from arpo_verl.integration.training.advantage import ChosenAdvantage, beside, entropy_after_tools
from arpo_verl.integration.training.branching_log import log_branching
from arpo_verl.integration.training.deadline import deadline
from arpo_verl.integration.training.entropy_history import EntropyHistory
from arpo_verl.integration.training.excluded_rows import set_apart
from arpo_verl.integration.training.loss_columns import put_loss_columns
from arpo_verl.integration.training.loss_mask import empty_loss_masks, narrow_loss_masks
from arpo_verl.integration.training.lost_leaves import (
    checked_signal_metrics,
    lost_fraction,
    require_enough_leaves,
    reward_failures,
)
from arpo_verl.integration.training.policy_loss import ChosenLoss, compute_entropies, set_loss
from arpo_verl.integration.training.process_watch import ProcessDied, ProcessWatch
from arpo_verl.integration.training.record_trainer import RecordTrainer
from arpo_verl.integration.training.replay_buffer import LeafCount, count_leaves
from arpo_verl.integration.training.rule_memory import RuleMemory
from arpo_verl.integration.training.save_on_stop import SaveOnStop
from arpo_verl.integration.training.step_folder import step_folder
from arpo_verl.integration.training.stop_request import accept_requests, requested
from arpo_verl.integration.training.tool_guard import (
    PaidCallsSpent,
    RunStopped,
    require_working_tools,
    warn_without_calls,
)
from arpo_verl.integration.training.tree_columns import TreeColumns
from arpo_verl.losses import LOSS_MASK, PAST_ENTROPY
from arpo_verl.presets.fill import fill_preset
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.leaf_signals import BY_TURN
from arpo_verl.rollout.metrics import Trees, reward_metrics, tool_metrics, tree_metrics
from arpo_verl.rules import build_rule

logger = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""How long a logger, which may be a service in the network, may take for what an ended step has measured."""
MANAGER = "arpo_verl.integration.rollout.worker.ArpoAgentLoopManager"


class ArpoTrainer(RecordTrainer, PackingTrainer):
    """Chooses the rollout, checks that every prompt has all its leaves, hands the trees to the estimator, logs them.

    A run whose rollout is `tag_agent`, of whatever algorithm, ends with the last finished step saved: when its tools no
    longer work, when a process dies, when nothing happens any more, by SIGINT and SIGTERM, and by any other error. Not
    covered: tools in validation, and groups that verl's filter drops before.
    """

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        show_warnings()
        fill_preset(config)  # where verl's command has not done so, with its overrides
        self._parts = RunParts.of(config)
        if self._parts.grows_trees:
            arpo_config(config).roots(config.actor_rollout_ref.rollout.n)
            choose_rollout(config)
        if self._parts.is_guarded:
            choose_manager(config)
        self._loss = ChosenLoss.of(config)
        if self._loss is not None:
            compute_entropies(config, self._loss)
        self._entropies = EntropyHistory()
        self._rule_memory = RuleMemory(build_rule(arpo_config(config)) if self._parts.grows_trees else None)
        self._state = SaveOnStop(self)
        self._measured: dict[str, Any] = {}
        """The metrics of a step that has begun."""
        self._without_reward: set[str] = set()
        """Keys of the step's leaves whose reward is not a number."""
        super().__init__(config, *args, **kwargs)

    def _build_replay_buffer(self) -> ReplayBuffer:
        buffer = super()._build_replay_buffer()
        self._leaf_count = LeafCount(self.config.data.train_batch_size, arpo_config(self.config).max_failed_fraction)
        if self._parts.is_guarded:
            count_leaves(buffer, self._leaf_count)
        return buffer

    def _setup(self) -> None:
        super()._setup()
        if self._loss is not None:
            set_loss(self.actor_rollout_wg, self.config, self._loss)

    def fit(self, agent_loop_manager: AgentLoopManager) -> None:
        """Train; on any error save the last finished step, and say where it is in the error.

        Raises:
            RunStopped: the run can't go on; the message has the cause and what is saved.
        """
        if not self._parts.is_guarded:
            super().fit(agent_loop_manager)
            return
        agent_loop_manager.rule_memory = self._rule_memory
        accept_requests()
        try:
            with self._watch(agent_loop_manager).watching():
                super().fit(agent_loop_manager)
        except PaidCallsSpent as end:
            where = self._stop(are_leaves_bad=True)
            self._shutdown_dump_executor()
            logger.warning("training ends at step %d: %s. %s", self.global_steps, end, where)
        except RunStopped as stop:
            where = self._stop(stop.are_leaves_bad, isinstance(stop, ProcessDied) and stop.is_among(QUEUE))
            raise RunStopped(f"{stop}. {where}") from None
        except (Exception, SystemExit) as error:
            where = self._stop(are_leaves_bad=False)
            raise RunStopped(
                f"the run ended in step {self.global_steps} by {type(error).__name__}: {error}. {where}"
            ) from error

    def _watch(self, agent_loop_manager: AgentLoopManager) -> ProcessWatch:
        managers = self._rollout_server_managers()
        servers = [server for manager in managers for server in manager.server_handles]
        balancers = [manager.global_load_balancer for manager in managers if manager.global_load_balancer is not None]
        groups = [self.actor_rollout_wg, *([self.critic_wg] if self.use_critic else [])]
        actors = {
            **_numbered("agent loop worker", agent_loop_manager.agent_loop_workers),
            **_numbered("reward worker", self.reward_loop_manager.reward_loop_workers),
            **_numbered("inference server", servers),
            **_numbered("load balancer", balancers),
            **_numbered("training worker", list(dict.fromkeys(worker for group in groups for worker in group.workers))),
            **queue_actors(),
        }
        return ProcessWatch(actors, self._progress, arpo_config(self.config).max_stall_seconds, self._stop_request)

    def _progress(self) -> str:
        """Return in words what changes when a leaf comes or when verl has measured how long a part of the step took."""
        ended = ", ".join(f"{part} {seconds:.1f}" for part, seconds in list(getattr(self, "timing_raw", {}).items()))
        return (
            f"in step {self.global_steps}, {self._leaf_count.come} leaves have come since the run began; parts of the "
            f"step that have ended, with their seconds: {ended or 'none'}"
        )

    def _stop_request(self) -> RunStopped | None:
        """Return how the run ends by request, once nothing is lost by it: not in the middle of an update or a save."""
        name = requested() if self._state.is_between_updates else None
        return StopRequested(f"the run was asked to end, by {name}") if name else None

    def _stop(self, are_leaves_bad: bool, is_queue_dead: bool = False) -> str:
        """Save, log what the step has measured, and return in words what is saved."""
        where = self._state.save(are_leaves_bad, is_queue_dead)
        numbers = {name: value for name, value in self._measured.items() if isinstance(value, (int, float))}
        try:
            if numbers:
                with deadline(LOG_SECONDS, "logging"):
                    self.logger.log(data=numbers, step=self.global_steps)
        except Exception:  # the error that ends the run is the one to report
            logger.exception("what step %d has measured could not be logged", self.global_steps)
        return where

    def on_init_end(self) -> None:
        self._state.sync_begins()
        super().on_init_end()
        self._state.sync_ends()

    def on_step_begin(self) -> None:
        super().on_step_begin()
        self._measured, self._without_reward = {}, set()
        self._leaf_count.step_begins()
        self._state.step_begins()
        self._entropies.step_begins()
        self._rule_memory.step_begins()

    def on_sample_end(self) -> None:
        super().on_sample_end()
        self._state.servers_sleep()

    def on_step_end(self) -> None:
        self._state.sync_begins()
        super().on_step_end()
        self._state.sync_ends()

    def step(self, *args: Any, **kwargs: Any) -> KVBatchMeta:
        batch = super().step(*args, **kwargs)
        self._state.step_ends()
        self._measured = {}
        self._entropies.step_ends()
        self._rule_memory.step_ends()
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
        if self.global_steps:
            folder = step_folder(self.config, self.global_steps, is_resumed=True)
            if self._keeps_entropies:
                self._entropies.load(folder)
            self._rule_memory.load(folder)

    def _save_checkpoint(self) -> None:
        self._state.save_begins()
        # Before verl's own, after which the checkpoint counts as whole.
        folder = step_folder(self.config, self.global_steps)
        folder.mkdir(parents=True, exist_ok=True)
        if self._keeps_entropies:
            self._entropies.save(folder)
        self._rule_memory.save(folder)
        super()._save_checkpoint()
        self._state.saved()

    @property
    def _keeps_entropies(self) -> bool:
        return self._loss is not None and self._loss.wants(PAST_ENTROPY)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if not self._parts.is_guarded and self._loss is None:
            return super()._compute_advantage(batch, metrics)
        fields: dict[str, dict[str, Any]] = {}
        if self._parts.is_guarded:
            self._measured = metrics
            fields = fields_of_leaves(batch)
        records = {key: LeafRecord.from_dict(of_leaf["arpo"]) for key, of_leaf in fields.items()}
        if records:  # rows may name another agent loop
            self._look_at_leaves(records, fields, metrics)
        if not self._parts.leaves_out and self._loss is None:
            return super()._compute_advantage(batch, metrics)
        columns = TreeColumns.read(batch, records, fields)
        if self._parts.grows_trees:
            self._rule_memory.seen(log_branching(batch.keys, records, columns, metrics))
        if self._parts.leaves_out:
            self._log_entropies(columns, metrics)
            self._leave_out(batch, columns, metrics)
        return self._estimate(batch, columns, metrics)

    def _look_at_leaves(self, records: dict[str, LeafRecord], fields: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Log what the leaves say; stop a run whose tools no longer work, or that loses too many leaves."""
        trees: dict[str, list[LeafRecord]] = defaultdict(list)
        for key, record in records.items():
            trees[prompt_of(key) if self._parts.grows_trees else session_of(key)].append(record)
        metrics.update(tree_metrics(trees) if self._parts.grows_trees else tool_metrics(trees))
        metrics.update(reward_metrics(of_leaf.get("reward_extra_info", {}) for of_leaf in fields.values()))
        metrics.update(checked_signal_metrics(fields.values(), arpo_config(self.config).max_failed_fraction))
        warn_without_calls(metrics["tools/calls"], self.config, self.global_steps)
        require_working_tools(trees, arpo_config(self.config))
        if self._parts.grows_trees:
            self._require_enough_leaves(trees, fields, metrics)

    def _require_enough_leaves(self, trees: Trees, fields: dict[str, Any], metrics: dict[str, Any]) -> None:
        prompts = self.config.data.train_batch_size // self.parameter_sync_step
        failures = reward_failures(fields)
        fraction = lost_fraction(trees, prompts, self.config.actor_rollout_ref.rollout.n, failures)
        metrics["arpo/failed_fraction"] = fraction
        require_enough_leaves(fraction, arpo_config(self.config).max_failed_fraction, failures)

    def _log_entropies(self, columns: TreeColumns, metrics: dict[str, Any]) -> None:
        if columns.entropies is None:  # the actor has none in bypass mode
            return
        entropy, mask = (pad_sequence(list(rows), batch_first=True) for rows in (columns.entropies, columns.masks))
        metrics.update(entropy_after_tools(entropy, mask, arpo_config(self.config).probe_tokens))

    def _leave_out(self, batch: KVBatchMeta, columns: TreeColumns, metrics: dict[str, Any]) -> None:
        """Empty the masks of rows with a non-finite reward; the worker has emptied those of other excluded leaves."""
        leaves = sum(not tag.get("is_padding", False) for tag in batch.tags)
        metrics["arpo/bad_reward_fraction"] = int(columns.has_no_reward.sum()) / leaves
        if bool(columns.is_excluded.all()):
            raise RunStopped(
                f"all {leaves} leaves are left out (arpo.exclude={list(arpo_config(self.config).exclude)}, or their "
                f"rewards are not finite); expected one to train on: look at the rollout's stop reasons, or exclude "
                f"less"
            )
        empty_loss_masks(batch, columns.masks, columns.has_no_reward)
        is_without = zip(batch.keys, columns.has_no_reward.tolist(), strict=True)
        self._without_reward.update(key for key, is_so in is_without if is_so)

    def _estimate(self, batch: KVBatchMeta, columns: TreeColumns, metrics: dict[str, Any]) -> KVBatchMeta:
        """Let verl compute advantages with the trees beside it, and put into the queue what the loss names."""
        by_advantage: dict[str, torch.Tensor] = {}
        if self._parts.uses_our_advantage:
            with beside(columns, ChosenAdvantage.of(self.config)) as laid:
                batch = super()._compute_advantage(batch, metrics)
            by_advantage = laid.for_loss
            if LOSS_MASK in by_advantage:
                batch = self._narrow(batch, by_advantage.pop(LOSS_MASK), metrics)
        elif self._parts.leaves_out:
            with set_apart(batch, columns.is_excluded, columns.scores):
                batch = super()._compute_advantage(batch, metrics)
        else:
            batch = super()._compute_advantage(batch, metrics)
        if self._loss is not None:
            batch = put_loss_columns(batch, self._loss, columns, by_advantage, self._entropies.mean)
            self._entropies.seen(columns.mean_entropy())
        return batch

    def _narrow(self, batch: KVBatchMeta, loss_mask: torch.Tensor, metrics: dict[str, Any]) -> KVBatchMeta:
        """Take the tokens that the advantage leaves out of the loss and of its denominators."""
        # As they are now: verl's rejections and the rows that are left out have changed them since they were read.
        masks = read_columns(batch.keys, batch.partition_id, ["response_mask"])["response_mask"]
        batch, metrics["arpo/trained_fraction"] = narrow_loss_masks(batch, masks, loss_mask)
        if not metrics["arpo/trained_fraction"]:
            logger.warning("step %d trains nothing: the advantage leaves all tokens out of the loss", self.global_steps)
        return batch

    def _compute_metrics(self, batch: KVBatchMeta, *args: Any, **kwargs: Any) -> None:
        """Leave leaves whose reward is not a number out of verl's means, as it does with padding."""
        tags = [
            tag | {"is_padding": True} if key in self._without_reward else tag
            for key, tag in zip(batch.keys, batch.tags, strict=True)
        ]
        counted = KVBatchMeta(partition_id=batch.partition_id, keys=batch.keys, tags=tags)
        super()._compute_metrics(counted, *args, **kwargs)

    def _val_metrics_update(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Leave lists, one number for each turn, out of verl's means over all that a reward gives (0.9.1)."""
        sources, uids, infos, *others = args
        numbers = {name: values for name, values in infos.items() if name not in BY_TURN}
        metrics: dict[str, float] = super()._val_metrics_update(sources, uids, numbers, *others, **kwargs)
        return metrics


class StopRequested(RunStopped):
    """Somebody has asked the run to end."""

    are_leaves_bad = False


def _numbered(name: str, actors: Sequence[ActorHandle]) -> dict[str, ActorHandle]:
    return {f"{name} {number}": actor for number, actor in enumerate(actors)}


def fields_of_leaves(batch: KVBatchMeta) -> dict[str, dict[str, Any]]:
    """Fetch the extra fields of each leaf of a batch, by key, without padding rows and leaves of other agent loops."""
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    rows = read_columns(keys, batch.partition_id, ["extra_fields"])["extra_fields"]
    return {key: row for key, row in zip(keys, rows, strict=True) if "arpo" in row}


def choose_manager(config: DictConfig) -> None:
    """Set the key by which verl's task runner finds its agent loop manager (`trainer/main_ppo.py`).

    Raises:
        ValueError: a run with trees names another manager, which would not grow them.
    """
    agent = config.actor_rollout_ref.rollout.agent
    chosen = agent.get("agent_loop_manager_class")
    if chosen not in (None, MANAGER):
        if not RunParts.of(config).grows_trees:
            return
        raise ValueError(
            f"actor_rollout_ref.rollout.agent.agent_loop_manager_class={chosen!r}; expected it unset or {MANAGER!r}: "
            f"with arpo.rollout=tree, and algorithm.adv_estimator=arpo without it, the rollout is ARPO's own"
        )
    with open_dict(config):
        agent.agent_loop_manager_class = MANAGER


def register_arpo_trainers() -> None:
    """Replace every trainer that verl has registered; a second call changes nothing."""
    for name, stock in list(TRAINER_REGISTRY.items()):
        if not issubclass(stock, ArpoTrainer):
            TRAINER_REGISTRY[name] = type(f"Arpo{stock.__name__}", (ArpoTrainer, stock), {})
