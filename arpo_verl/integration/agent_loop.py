"""The rollout of one prompt inside verl: an agent loop that grows one leaf, or a tree of them.

Registered as `tag_agent`, it is an ordinary verl agent loop (`rollout.agent.default_agent_loop=tag_agent`) that any
algorithm can use; `ArpoAgentLoopWorker` uses the same object to grow trees, so that GRPO and ARPO differ in nothing
but branching.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from transformers import GenerationConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, ToolListWrap

from arpo_verl.config import ArpoConfig
from arpo_verl.integration.engine import ServerEngine
from arpo_verl.integration.settings import arpo_config
from arpo_verl.integration.tools import VerlTools
from arpo_verl.rollout.metrics import LeafRecord
from arpo_verl.rollout.scheduler import PromptRollout, RolloutSettings, Surroundings
from arpo_verl.rollout.tag_syntax import TagSyntax
from arpo_verl.rollout.tree import Leaf, StopReason


@dataclasses.dataclass(frozen=True)
class TreeRequest:
    """How many leaves to grow, how many of them from the prompt, and what seeds the draws."""

    leaves: int
    roots: int
    seed: str


class TagAgentLoop(AgentLoopBase):
    """Tools by tags (`arpo_verl.rollout.tag_syntax`), token ids in, token ids out."""

    def __init__(self, *args: Any, tools: ToolListWrap | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tools = {tool.name: tool for tool in (tools.tools if tools else [])}
        self._arpo = _within_turn_limits(arpo_config(self.config), self.rollout_config.multi_turn, bool(self._tools))
        self._syntax = TagSyntax(
            tags=list(self._tools),
            decode=lambda ids: self.tokenizer.decode(ids, skip_special_tokens=False),
            encode=lambda text: self.tokenizer.encode(text, add_special_tokens=False),
            end_token_ids=end_token_ids(self.config.actor_rollout_ref.model.path, self.tokenizer.eos_token_id),
        )

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Grow one leaf: what verl's own agent loop worker calls."""
        outputs: list[AgentLoopOutput] = []

        async def keep(leaf: Leaf, output: AgentLoopOutput) -> None:
            outputs.append(output)

        await self.grow_tree(sampling_params, TreeRequest(leaves=1, roots=1, seed=""), keep, kwargs)
        return outputs[0]

    async def grow_tree(
        self,
        sampling_params: dict[str, Any],
        request: TreeRequest,
        on_leaf: Callable[[Leaf, AgentLoopOutput], Awaitable[None]],
        sample: dict[str, Any],
    ) -> None:
        """Grow the leaves of one prompt and hand each over as it ends.

        Args:
            sampling_params: verl's, for the inference server.
            request: the size of the tree.
            on_leaf: called once for each leaf.
            sample: the dataset fields of the prompt; `raw_prompt` has its messages.
        """
        prompt_ids = await self.ct_build_initial_tokens(list(sample["raw_prompt"]))
        settings = RolloutSettings(
            prompt_ids=list(prompt_ids),
            leaves=request.leaves,
            roots=request.roots,
            max_response_tokens=self._response_budget(len(prompt_ids)),
            vocabulary_size=len(self.tokenizer),
            seed=f"{request.seed}/{_digest(prompt_ids)}",
        )
        multi_turn = self.rollout_config.multi_turn
        tools = VerlTools(
            self._tools,
            sample.get("tools_kwargs") or {},
            multi_turn.max_tool_response_length,
            multi_turn.tool_response_truncate_side,
        )

        async def hand_over(leaf: Leaf) -> None:
            await on_leaf(leaf, self._output(prompt_ids, leaf, LeafRecord.of(leaf, request.leaves)))

        engine = ServerEngine(self.server_manager, sampling_params, self._syntax.stop_strings)
        await PromptRollout(settings, self._arpo, Surroundings(engine, tools, self._syntax, hand_over)).run()

    def _response_budget(self, prompt_tokens: int) -> int:
        model_limit = self.rollout_config.max_model_len
        budget: int = self.rollout_config.response_length
        return budget if model_limit is None else min(budget, model_limit - prompt_tokens)

    def _output(self, prompt_ids: list[int], leaf: Leaf, record: LeafRecord) -> AgentLoopOutput:
        first_version, last_version = leaf.weight_versions or (None, None)
        token_ids, mask, logprobs = leaf.token_ids, leaf.response_mask, leaf.logprobs
        if not token_ids:
            # verl puts the reward on the last token, so a leaf needs one; masked, it trains nothing.
            assert leaf.stop_reason in (StopReason.EMPTY, StopReason.INTERRUPTED)
            token_ids, mask, logprobs = [self.tokenizer.eos_token_id], [0], [0.0]
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=token_ids,
            response_mask=mask,
            response_logprobs=logprobs if self.rollout_config.calculate_log_probs else None,
            num_turns=2 * leaf.tool_calls + 2,
            metrics=AgentLoopMetrics(tool_calls=sum(latency for _, _, _, latency in record.calls)),
            extra_fields={
                "turn_scores": [],
                "tool_rewards": [],
                "min_global_steps": first_version,
                "max_global_steps": last_version,
                "arpo": record.as_dict(),
            },
        )


@functools.cache
def end_token_ids(model_path: str, tokenizer_end: int) -> frozenset[int]:
    """Return all tokens that end an answer: vLLM stops at each that the model's generation config names."""
    try:
        ends = GenerationConfig.from_pretrained(model_path).eos_token_id
    except OSError:  # a model need not have one
        ends = None
    return frozenset([tokenizer_end, *(ends if isinstance(ends, list) else [ends] if ends is not None else [])])


def _digest(token_ids: list[int]) -> str:
    """Tell prompts apart that share a dataset index, the same way in every process."""
    return hashlib.sha256(",".join(map(str, token_ids)).encode()).hexdigest()[:16]


def _within_turn_limits(config: ArpoConfig, multi_turn: Any, has_tools: bool) -> ArpoConfig:
    """Lower `max_tool_calls` to verl's own limits on turns, and to 0 where there is no tool to call."""
    limits = [config.max_tool_calls if has_tools else 0]
    if multi_turn.max_user_turns:
        limits.append(multi_turn.max_user_turns)
    if multi_turn.max_assistant_turns:
        limits.append(multi_turn.max_assistant_turns - 1)
    return dataclasses.replace(config, max_tool_calls=min(limits))
