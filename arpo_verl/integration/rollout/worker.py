"""The agent loop manager and worker that grow trees. Written against verl 0.9.1, `trainer/ppo/v1/agent_loop_tq.py`.

The tree belongs in the worker's `_run_prompt`: that is where the number of leaves is known, and each leaf has to
become a row of its own there, because verl scores a list of outputs on its last item only.
"""

import asyncio
import itertools
import json
import logging
import math
import time
import traceback
from collections import Counter
from functools import partial
from typing import Any

import ray
import torch
from tensordict import NonTensorData, TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ, apply_greedy_sampling_params

from arpo_verl.integration.queue import put_tags_async, read_tags_async, remove_rows_async
from arpo_verl.integration.rollout.agent_loop import OCCURRENCE, RULE_MEMORY, TreeAgentLoop, TreeRequest
from arpo_verl.integration.rollout.hinted_growth import HintedGrowth
from arpo_verl.integration.rollout.signals import is_validation
from arpo_verl.integration.row_key import prompt_of
from arpo_verl.integration.settings import RunParts, arpo_config
from arpo_verl.integration.training.lost_leaves import FAILURE, REWARD_FAILURE
from arpo_verl.integration.training.record_rows import REWARD_TIMES
from arpo_verl.integration.training.rule_memory import RuleMemory
from arpo_verl.rollout.hints import HintSettings
from arpo_verl.rollout.tool_text import valid_text
from arpo_verl.rollout.tree import Leaf
from arpo_verl.rules import build_rule

logger = logging.getLogger(__name__)

CAUSE_CHARACTERS = 300
"""The number of characters in the queue of the error that made a rollout fail; the log has all of it."""

# A Ray actor class can't be subclassed; this is the class that it was made from.
_StockWorker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class ArpoAgentLoopWorker(_StockWorker):
    """verl's worker with the sessions of a prompt as the leaves of one tree, and a limit for the time of a reward."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arpo = arpo_config(self.config)
        self._rule = build_rule(self._arpo)
        self._grows_trees = RunParts.of(self.config).grows_trees
        self._hints = HintSettings.of(self._arpo.hint_kwargs) if self._arpo.hints else None

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        """Grow a prompt's tree, publish its leaves, then its status, as the stock method does for its sessions.

        The leaves of a prompt that fails are taken back, so that it is a prompt without leaves, which verl can replace
        (`sync_refill_failed_groups`) and the trainer counts. Validation keeps them, as verl's does.
        """
        is_validation.set(trajectory["validate"])  # seen by the tasks of this prompt alone
        if not self._grows_trees:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
            return
        uid = prompt["uid"]
        partition_id = "val" if trajectory["validate"] else "train"
        await put_tags_async(partition_id, uid, {"status": "running"})
        try:
            await self._grow(prompt, dict(sampling_params), trajectory)
        except BaseException as error:
            # As text that every log can write: an error may hold what a tool or the model wrote.
            history = valid_text("".join(traceback.format_exception(error)))
            logger.error("the rollout of prompt %s failed; its leaves are not usable\n%s", uid, history)
            try:
                if not trajectory["validate"]:
                    await take_back(uid, partition_id)
            finally:
                # A prompt that never gets a final status would be waited for for ever.
                tags = {"status": "failure", FAILURE: _cause(error)}
                await put_tags_async(partition_id, uid, tags)
            if not isinstance(error, Exception):
                raise
        else:
            await put_tags_async(partition_id, uid, {"status": "finished"})

    async def _grow(self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any]) -> None:
        validate = trajectory["validate"]
        rollout = self.config.actor_rollout_ref.rollout
        leaves = int(prompt.pop("__rollout_n__", rollout.val_kwargs.n if validate else rollout.n))
        if not prompt.pop("__do_sample__", True) and not validate:
            apply_greedy_sampling_params(sampling_params)
        prompt.pop("agent_name", None)
        occurrence = int(prompt.pop(OCCURRENCE))
        memory = prompt.pop(RULE_MEMORY, None)
        rule = self._rule if memory is None else self._rule.with_memory(json.loads(memory))

        def fields_of(row: dict[str, Any], leaf: Leaf) -> dict[str, Any]:
            return {**row, "session_id": leaf.number, "segment_ids": torch.tensor(leaf.segment_ids or [-1])}

        async def score(row: dict[str, Any], leaf: Leaf, output: AgentLoopOutput) -> bool:
            has_score = await self._has_score(output, fields_of(row, leaf), validate)
            # A leaf that trains nothing says nothing of its prompt.
            leaf.reward = None if leaf.faults & set(self._arpo.exclude) else known_reward(output)
            return has_score

        async def publish(row: dict[str, Any], leaf: Leaf, output: AgentLoopOutput) -> None:
            if await score(row, leaf, output):
                await self._agent_loop_postprocess(output, validate, **fields_of(row, leaf))

        request = TreeRequest(
            leaves=leaves,
            rule=None if validate else rule,
            seed=f"{self._arpo.seed}/{trajectory['step']}/{trajectory['sample_index']}/{occurrence}",
        )
        loop = TreeAgentLoop.of_worker(self, self.llm_client)
        if self._hints is None or validate:
            await loop.grow_tree(sampling_params, request, partial(publish, prompt), prompt, partial(score, prompt))
        else:
            await HintedGrowth(self._hints, loop, request, sampling_params).run(prompt, score, publish)

    async def _has_score(self, output: AgentLoopOutput, fields: dict[str, Any], validate: bool) -> bool:
        """Compute a leaf's reward, which verl then does not compute again, and return whether to publish the leaf.

        A leaf whose reward fails is kept in training, with a reward that is not a number: it trains nothing, and the
        other leaves of its prompt are not lost. Validation leaves it out, as verl does with a session that fails.
        """
        asked = time.time()
        try:
            await self._compute_score([output], kwargs=fields)
        except Exception as error:
            logger.exception("the reward of leaf %s of prompt %s failed", fields["session_id"], fields["uid"])
            output.reward_score = math.nan
            output.extra_fields["reward_extra_info"] = {REWARD_FAILURE: _cause(error)}
            return not validate
        finally:
            # The first time alone: verl does not compute a reward again that is there.
            output.extra_fields.setdefault(REWARD_TIMES, (asked, time.time()))
        return True

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict[str, Any]) -> None:
        """As in verl, for `arpo.max_reward_seconds` at most; a reward function sees the step in its `extra_info`.

        Raises:
            TimeoutError: the reward has not come in time.
        """
        limit = self._arpo.max_reward_seconds
        extra_info = {**(kwargs.get("extra_info") or {}), "global_steps": kwargs.get("global_steps")}
        try:
            await asyncio.wait_for(super()._compute_score(outputs, {**kwargs, "extra_info": extra_info}), limit)
        except asyncio.TimeoutError:
            raise TimeoutError(
                f"no reward within arpo.max_reward_seconds={limit:g}; expected one: mend the reward function "
                f"(reward.custom_reward_function), or raise the limit"
            ) from None


def known_reward(output: AgentLoopOutput) -> float | None:
    """Return the reward of a leaf; None where it has failed, has not come in time, or comes after the rollout."""
    reward = output.reward_score
    return float(reward) if reward is not None and math.isfinite(reward) else None


def _cause(error: BaseException) -> str:
    """Return an error's kind and message as text that the queue can send."""
    return valid_text(f"{type(error).__name__}: {error}")[:CAUSE_CHARACTERS]


async def take_back(uid: str, partition_id: str) -> None:
    """Remove the leaves that a prompt has published."""
    rows = await read_tags_async(partition_id)
    await remove_rows_async([key for key in rows if key != uid and prompt_of(key) == uid], partition_id)


class ArpoAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with workers that grow trees, which numbers prompts that are the same."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The stock constructor sets its own class; workers are created only afterwards, in `create`.
        self.agent_loop_workers_class = ray.remote(ArpoAgentLoopWorker)
        self._occurrences = Occurrences()
        self.rule_memory: RuleMemory | None = None
        """The trainer's. What it holds travels with the prompts, so that nothing has to be asked for or waited for."""
        self.prompt_places: dict[str, int] = {}
        """Of prompts by their ids, in the order in which they were asked for; the trainer orders its rows by them."""
        self._next_place = itertools.count()

    def generate_sequences(self, prompts: TensorDict) -> None:
        prompts[OCCURRENCE] = torch.tensor(self._occurrences.number(prompts))
        memory = self.rule_memory.packed if self.rule_memory is not None else None
        if memory is not None:
            prompts[RULE_MEMORY] = NonTensorData(memory)
        if not ("validate" in prompts and bool(prompts["validate"])):
            for uid in prompts["uid"]:
                self.prompt_places[str(uid)] = next(self._next_place)
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
