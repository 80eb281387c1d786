"""The agent loop manager and worker that grow trees. Written against verl 0.9.1, `trainer/ppo/v1/agent_loop_tq.py`.

The tree belongs in the worker's `_run_prompt`: that is where the number of leaves is known, and each leaf has to
become a row of its own there, because verl scores a list of outputs on its last item only.
"""

import asyncio
import contextlib
import logging
from typing import Any

import ray
import torch
import transfer_queue as tq
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, ToolListWrap
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ, apply_greedy_sampling_params

from arpo_verl.integration.agent_loop import TreeAgentLoop, TreeRequest
from arpo_verl.integration.engine import recording
from arpo_verl.integration.settings import arpo_config
from arpo_verl.rollout.scheduler import NO_LIMIT
from arpo_verl.rollout.tree import Leaf

logger = logging.getLogger(__name__)

# A Ray actor class can't be subclassed; this is the class that it was made from.
_StockWorker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class ArpoAgentLoopWorker(_StockWorker):  # type: ignore[misc]
    """verl's worker with one method replaced: the sessions of a prompt are the leaves of one tree."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arpo = arpo_config(self.config)
        self._client = recording(self.llm_client)
        self._request_slot = _slot(self._arpo.max_requests_in_flight)
        self._call_slot = _slot(self._arpo.max_tool_calls_in_flight)

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling_params: dict[str, Any], trajectory: dict[str, Any], trace: bool = False
    ) -> None:
        """Grow a prompt's tree, publish its leaves, then its status, as the stock method does for its sessions."""
        uid = prompt["uid"]
        partition_id = "val" if trajectory["validate"] else "train"
        await tq.async_kv_put(key=uid, partition_id=partition_id, tag={"status": "running"})
        try:
            await self._grow(prompt, dict(sampling_params), trajectory)
        except BaseException as error:
            logger.exception("the rollout of prompt %s failed; its leaves are not usable", uid)
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

        async def publish(leaf: Leaf, output: AgentLoopOutput) -> None:
            segment_ids = torch.tensor(leaf.segment_ids or [-1])
            await self._agent_loop_postprocess(
                output, validate, **prompt, session_id=leaf.number, segment_ids=segment_ids
            )

        request = TreeRequest(
            leaves=leaves,
            roots=leaves if validate else self._arpo.roots(leaves),
            seed=f"{self._arpo.seed}/{trajectory['step']}/{trajectory['sample_index']}",
            request_slot=self._request_slot,
            call_slot=self._call_slot,
        )
        await self._agent_loop().grow_tree(sampling_params, request, publish, prompt)

    def _agent_loop(self) -> TreeAgentLoop:
        return TreeAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self._client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            hf_model_type=self.hf_model_type,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            tools=ToolListWrap(self.tools),
        )


def _slot(at_most: int | None) -> contextlib.AbstractAsyncContextManager[Any]:
    return NO_LIMIT if at_most is None else asyncio.Semaphore(at_most)


class ArpoAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with workers that grow trees."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The stock constructor sets its own class; workers are created only afterwards, in `create`.
        self.agent_loop_workers_class = ray.remote(ArpoAgentLoopWorker)
