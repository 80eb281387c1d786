"""The agent loop manager and worker that grow trees. Written against verl 0.9.1, `trainer/ppo/v1/agent_loop_tq.py`.

The tree belongs in the worker's `_run_prompt`: that is where the number of leaves is known, and each leaf has to
become a row of its own there, because verl scores a list of outputs on its last item only.
"""

import asyncio
import logging
import math
from collections import Counter
from typing import Any

import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, ToolListWrap
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ, apply_greedy_sampling_params

from arpo_verl.integration.agent_loop import OCCURRENCE, TreeAgentLoop, TreeRequest
from arpo_verl.integration.lost_leaves import REWARD_FAILURE
from arpo_verl.integration.settings import arpo_config, wants_arpo
from arpo_verl.rollout.tree import Leaf

logger = logging.getLogger(__name__)

# A Ray actor class can't be subclassed; this is the class that it was made from.
_StockWorker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class ArpoAgentLoopWorker(_StockWorker):  # type: ignore[misc]
    """verl's worker with the sessions of a prompt as the leaves of one tree, and a limit for the time of a reward."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arpo = arpo_config(self.config)

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        """Grow a prompt's tree, publish its leaves, then its status, as the stock method does for its sessions.

        The leaves of a prompt that fails are taken back, so that it is a prompt without leaves, which verl can replace
        (`sync_refill_failed_groups`) and the trainer counts. Validation keeps them, as verl's does.
        """
        if not wants_arpo(self.config):
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
            return
        uid = prompt["uid"]
        partition_id = "val" if trajectory["validate"] else "train"
        await tq.async_kv_put(key=uid, partition_id=partition_id, tag={"status": "running"})
        try:
            await self._grow(prompt, dict(sampling_params), trajectory)
        except BaseException as error:
            logger.exception("the rollout of prompt %s failed; its leaves are not usable", uid)
            try:
                if not trajectory["validate"]:
                    await take_back(uid, partition_id)
            finally:
                # A prompt that never gets a final status would be waited for for ever.
                await tq.async_kv_put(key=uid, partition_id=partition_id, tag={"status": "failure"})
            if not isinstance(error, Exception):
                raise
        else:
            await tq.async_kv_put(key=uid, partition_id=partition_id, tag={"status": "finished"})

    async def _grow(self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any]) -> None:
        validate = trajectory["validate"]
        rollout = self.config.actor_rollout_ref.rollout
        leaves = int(prompt.pop("__rollout_n__", rollout.val_kwargs.n if validate else rollout.n))
        if not prompt.pop("__do_sample__", True) and not validate:
            apply_greedy_sampling_params(sampling_params)
        prompt.pop("agent_name", None)
        occurrence = int(prompt.pop(OCCURRENCE))

        async def publish(leaf: Leaf, output: AgentLoopOutput) -> None:
            segment_ids = torch.tensor(leaf.segment_ids or [-1])
            fields = {**prompt, "session_id": leaf.number, "segment_ids": segment_ids}
            if await self._has_score(output, fields, validate):
                await self._agent_loop_postprocess(output, validate, **fields)

        request = TreeRequest(
            leaves=leaves,
            roots=leaves if validate else self._arpo.roots(leaves),
            seed=f"{self._arpo.seed}/{trajectory['step']}/{trajectory['sample_index']}/{occurrence}",
        )
        await self._agent_loop().grow_tree(sampling_params, request, publish, prompt)

    async def _has_score(self, output: AgentLoopOutput, fields: dict[str, Any], validate: bool) -> bool:
        """Compute a leaf's reward, which verl then does not compute again, and return whether to publish the leaf.

        A leaf whose reward fails is kept in training, with a reward that is not a number: it trains nothing, and the
        other leaves of its prompt are not lost. Validation leaves it out, as verl does with a session that fails.
        """
        try:
            await self._compute_score([output], kwargs=fields)
        except Exception as error:
            logger.exception("the reward of leaf %s of prompt %s failed", fields["session_id"], fields["uid"])
            output.reward_score = math.nan
            output.extra_fields["reward_extra_info"] = {REWARD_FAILURE: f"{type(error).__name__}: {error}"}
            return not validate
        return True

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict[str, Any]) -> None:
        """As in verl, for `arpo.max_reward_seconds` at most.

        Raises:
            TimeoutError: the reward has not come in time.
        """
        limit = self._arpo.max_reward_seconds
        try:
            await asyncio.wait_for(super()._compute_score(outputs, kwargs), limit)
        except asyncio.TimeoutError:
            raise TimeoutError(
                f"no reward within arpo.max_reward_seconds={limit:g}; expected one: mend the reward function "
                f"(reward.custom_reward_function), or raise the limit"
            ) from None

    def _agent_loop(self) -> TreeAgentLoop:
        return TreeAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            hf_model_type=self.hf_model_type,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            tools=ToolListWrap(self.tools),
        )


async def take_back(uid: str, partition_id: str) -> None:
    """Remove the leaves that a prompt has published."""
    tags = (await tq.async_kv_list(partition_id)).get(partition_id, {})
    published = [key for key in tags if key.startswith(f"{uid}_")]
    if published:
        await tq.async_kv_clear(keys=published, partition_id=partition_id)


class ArpoAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with workers that grow trees, which numbers prompts that are the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The stock constructor sets its own class; workers are created only afterwards, in `create`.
        self.agent_loop_workers_class = ray.remote(ArpoAgentLoopWorker)
        self._occurrences = Occurrences()

    def generate_sequences(self, prompts: TensorDict) -> None:
        prompts[OCCURRENCE] = torch.tensor(self._occurrences.number(prompts))
        super().generate_sequences(prompts)


class Occurrences:
    """Numbers the rows of a step that are the same prompt, so that each draws for itself, the same way in every run."""

    def __init__(self) -> None:
        self._step: tuple[int, bool] | None = None
        self._seen: Counter[str] = Counter()

    def number(self, prompts: TensorDict) -> list[int]:
        """Return for each row how many rows of the step before it are the same prompt."""
        step = (int(prompts["global_steps"]), "validate" in prompts and bool(prompts["validate"]))
        if step != self._step:
            self._step, self._seen = step, Counter()
        numbers = []
        for index, messages in zip(prompts["index"], prompts["raw_prompt"], strict=True):
            name = f"{index}/{messages}"
            numbers.append(self._seen[name])
            self._seen[name] += 1
        return numbers
