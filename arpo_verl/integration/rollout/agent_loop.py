"""The rollout of one prompt inside verl: an agent loop that grows one leaf, or a tree of them.

Registered as `tag_agent`, it is an ordinary verl agent loop (`rollout.agent.default_agent_loop=tag_agent`) that any
algorithm can use; `ArpoAgentLoopWorker` uses the same object to grow trees, so that GRPO and ARPO differ in nothing
but branching.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopMetrics,
    AgentLoopOutput,
    AgentLoopWorker,
    DictConfigWrap,
    ToolListWrap,
)
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.workers.rollout.llm_server import LLMServerClient

from arpo_verl.integration.logs import show_warnings
from arpo_verl.integration.rollout.chat_template import chat_prefix, plain_json
from arpo_verl.integration.rollout.in_flight import slot
from arpo_verl.integration.rollout.native_syntax import NativeSyntax
from arpo_verl.integration.rollout.signals import SignalSource
from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools, tool_schema
from arpo_verl.integration.serving.engine import ServerEngine
from arpo_verl.integration.serving.server import Stops, server_of
from arpo_verl.integration.settings import TAG_FORMAT, RunParts, arpo_config
from arpo_verl.reward.prefill import RESPONSE_PREFIX
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.leaf_signals import SIGNALS
from arpo_verl.rollout.protocols import CallSyntax
from arpo_verl.rollout.rule import BranchingRule
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.seeds import token_digest
from arpo_verl.rollout.tag_syntax import Tags, TagSyntax
from arpo_verl.rollout.tree import Leaf
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules.linear import Linear

if TYPE_CHECKING:
    from typing_extensions import Self

RECORD = "arpo"
"""Extra field of a leaf: its `LeafRecord` as a dictionary."""
RULE_MEMORY = "arpo_rule_memory"
"""Field of a prompt: what the branching rule had learnt when the prompt was sent, as JSON; of training alone."""
OCCURRENCE = "arpo_occurrence"
"""Field of a prompt: how many rows before it in its step are the same prompt (`ArpoAgentLoopManager`)."""


@dataclasses.dataclass(frozen=True)
class TreeRequest:
    """What to grow: a tree of how many leaves, by which rule, what seeds the draws."""

    leaves: int
    seed: str
    rule: BranchingRule | None = None
    """None starts all leaves from the prompt."""


@dataclasses.dataclass(frozen=True)
class RenderedPrompt:
    """A dataset row as the rollout begins with it."""

    messages: list[dict[str, Any]]
    tools: dict[str, Any]
    """verl's, by name."""
    syntax: CallSyntax
    stops: Stops
    token_ids: list[int]


class TreeAgentLoop(ToolAgentLoop):
    """verl's tool agent loop with another `run`: tags or native tool calls, token ids in, token ids out, text alone."""

    def __init__(self, *args: Any, tools: ToolListWrap | None = None, **kwargs: Any) -> None:
        show_warnings()
        super().__init__(*args, tools=tools, **kwargs)
        self._multi_turn = self.rollout_config.multi_turn
        self._arpo = arpo_config(self.config)
        self._exclude = self._arpo.exclude if RunParts.of(self.config).leaves_out else ()
        self._signals = SignalSource.of(self.config)
        # verl hands `extra_fields` on to the reward, which reads a response with what its prompt has opened.
        self.response_prefix = chat_prefix(self.tokenizer, plain_json(self.apply_chat_template_kwargs))
        self._ends = end_token_ids(self.config.actor_rollout_ref.model.path, self.tokenizer.eos_token_id)

    @classmethod
    def of_worker(cls, worker: AgentLoopWorker, client: LLMServerClient) -> "Self":
        """Return an agent loop with the tokenizer, the tools and the configuration that a worker of verl's has loaded.

        Args:
            worker: verl's, or a subclass.
            client: brings the tokens.
        """
        return cls(
            trainer_config=DictConfigWrap(worker.config),
            server_manager=client,
            tokenizer=worker.tokenizer,
            processor=worker.processor,
            hf_model_type=worker.hf_model_type,
            dataset_cls=worker.dataset_cls,
            data_config=DictConfigWrap(worker.config.data),
            tools=ToolListWrap(worker.tools),
        )

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Grow one leaf: what verl's own agent loop worker calls."""
        outputs: list[AgentLoopOutput] = []

        async def keep(leaf: Leaf, output: AgentLoopOutput) -> None:
            outputs.append(output)

        # Sessions of a prompt, and rows that are the same prompt, draw each for itself.
        names = [kwargs.get(name, 0) for name in ("global_steps", "index", OCCURRENCE, "session_id")]
        seed = "/".join(map(str, [self._arpo.seed, *names]))
        await self.grow_tree(sampling_params, TreeRequest(leaves=1, seed=seed), keep, kwargs)
        return outputs[0]

    async def grow_tree(
        self,
        sampling_params: dict[str, Any],
        request: TreeRequest,
        on_leaf: Callable[[Leaf, AgentLoopOutput], Awaitable[None]],
        sample: dict[str, Any],
        score: Callable[[Leaf, AgentLoopOutput], Awaitable[Any]] | None = None,
    ) -> None:
        """Grow the leaves of one prompt and hand each over once nothing can be decided about it any more.

        Args:
            sampling_params: verl's, for the inference server.
            request: the size of the tree.
            on_leaf: called once for each leaf.
            sample: the dataset fields of the prompt; `raw_prompt` has its messages.
            score: called with each leaf that has ended, where the rule looks at rewards: sets `reward_score` of the
                output, which `on_leaf` gets later, and the leaf's `reward`. Takes a limited time and does not raise.

        Raises:
            ValueError: the prompt has images, videos or sound.
        """
        prompt = await self.rendered(sample)
        engine = ServerEngine(self.server_manager, server_of(self.config), sampling_params, prompt.stops)
        signals = self._signals.of_tree(engine, self.tokenizer, prompt.token_ids, sample)
        scored: dict[int, AgentLoopOutput] = {}

        async def score_leaf(leaf: Leaf) -> None:
            if score is not None:
                scored[leaf.number] = self._output(prompt.token_ids, leaf, request.leaves)
                await score(leaf, scored[leaf.number])

        async def hand_over(leaf: Leaf) -> None:
            output = scored.pop(leaf.number, None)
            if output is None:
                output = self._output(prompt.token_ids, leaf, request.leaves)
            else:  # something may have been decided since
                output.extra_fields[RECORD] = self._record(leaf, request.leaves).as_dict()
            if signals is not None:
                output.extra_fields[SIGNALS] = (await signals.of_leaf(leaf)).as_dict()
            await on_leaf(leaf, output)

        tools = VerlTools(prompt.tools, self._tool_settings(prompt, sample))
        services = self._services(prompt, tools, engine, hand_over, score_leaf)
        source = str(sample.get("data_source") or "")
        rollout_settings = self._rollout_settings(prompt.token_ids, request, bool(prompt.tools), source)
        rule = request.rule or Linear(self._arpo)
        try:
            await PromptRollout(rollout_settings, self._arpo, rule, services).run()
        finally:
            await _close(tools.states, signals)

    def _services(
        self,
        prompt: RenderedPrompt,
        tools: VerlTools,
        engine: ServerEngine,
        hand_over: Callable[[Leaf], Coroutine[Any, Any, None]],
        score_leaf: Callable[[Leaf], Coroutine[Any, Any, None]],
    ) -> RolloutServices:
        return RolloutServices(
            engine,
            tools,
            prompt.syntax,
            hand_over,
            slot("request", self._arpo.max_requests_in_flight),
            slot("tool call", self._arpo.max_tool_calls_in_flight),
            score_leaf,
            tools.states,
        )

    async def rendered(self, sample: dict[str, Any]) -> RenderedPrompt:
        """Return a dataset row's messages, tools and token ids, and how its calls are written.

        Raises:
            ValueError: the prompt has images, videos or sound.
        """
        messages = list(sample["raw_prompt"])
        if any((await self.process_multi_modal_info(messages)).values()):
            raise ValueError("a prompt has images, videos or sound; expected text: remove it from the dataset")
        tools = self._tools_of(sample)
        syntax, stops = self._syntax(messages, tools)
        schemas = None if isinstance(syntax, TagSyntax) else [tool_schema(tool) for tool in tools.values()]
        token_ids = list(await self.ct_build_initial_tokens(messages, tools=schemas))
        return RenderedPrompt(messages, tools, syntax, stops, token_ids)

    def _tools_of(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the tools of a prompt: verl's `extra_info.tool_selection`, or all of them."""
        selection = (sample.get("extra_info") or {}).get("tool_selection")
        return {name: tool for name, tool in self.tools.items() if not selection or name in selection}

    def _syntax(self, messages: list[dict[str, Any]], tools: dict[str, Any]) -> tuple[CallSyntax, Stops]:
        if self.tool_parser_name != TAG_FORMAT:
            native = NativeSyntax(self, messages, list(tools.values()), self._ends)
            return native, Stops([], list(self.tool_parser.stop_token_ids))
        tags = Tags(list(tools), self._arpo.tag_open, self._arpo.tag_close, self._arpo.result_template)
        syntax = TagSyntax.from_tokenizer(self.tokenizer, tags, self._ends)
        return syntax, Stops(tags.stop_strings, [])

    def _tool_settings(self, prompt: RenderedPrompt, sample: dict[str, Any]) -> ToolSettings:
        multi_turn = self._multi_turn
        return ToolSettings(
            prompt.messages,
            sample.get("tools_kwargs") or {},
            multi_turn.max_tool_response_length,
            multi_turn.tool_response_truncate_side,
            self._arpo.max_call_seconds,
        )

    def _rollout_settings(
        self, prompt_ids: list[int], request: TreeRequest, has_tools: bool, source: str
    ) -> RolloutSettings:
        model_limit, budget = self.rollout_config.max_model_len, self.rollout_config.response_length
        return RolloutSettings(
            prompt_ids=prompt_ids,
            leaves=request.leaves,
            max_response_tokens=budget if model_limit is None else min(budget, model_limit - len(prompt_ids)),
            vocabulary_size=len(self.tokenizer),
            seed=f"{request.seed}/{token_digest(prompt_ids)}",
            max_tool_turns=_tool_turns(self._multi_turn) if has_tools else 0,
            max_parallel_calls=self._multi_turn.max_parallel_calls,
            source=source,
        )

    def _record(self, leaf: Leaf, leaves: int) -> LeafRecord:
        return LeafRecord.from_leaf(leaf, leaves, self._exclude)

    def _output(self, prompt_ids: list[int], leaf: Leaf, leaves: int) -> AgentLoopOutput:
        record = self._record(leaf, leaves)
        first_version, last_version = leaf.weight_versions or (None, None)
        token_ids, mask, logprobs = leaf.token_ids, leaf.response_mask, leaf.logprobs
        if not token_ids:
            # verl puts the reward on the last token, so a leaf needs one; masked, it trains nothing.
            token_ids, mask, logprobs = [self.tokenizer.eos_token_id], [0], [0.0]
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=token_ids,
            response_mask=[0] * len(mask) if record.is_excluded else mask,
            response_logprobs=logprobs if self.rollout_config.calculate_log_probs else None,
            num_turns=2 * leaf.tool_turns + 2,
            metrics=AgentLoopMetrics(tool_calls=sum(call.latency_seconds for call in leaf.calls)),
            extra_fields={
                "turn_scores": [],
                "tool_rewards": [call.reward for call in leaf.calls if call.reward is not None],
                "min_global_steps": first_version,
                "max_global_steps": last_version,
                RECORD: record.as_dict(),
                RESPONSE_PREFIX: self.response_prefix,
            },
        )


async def _close(*parts: Any) -> None:
    """Close what was grown with, each whatever happens to the others; None is nothing to close."""
    async with contextlib.AsyncExitStack() as stack:
        for part in parts:
            if part is not None:
                stack.push_async_callback(part.close)


@functools.cache
def end_token_ids(model_path: str, tokenizer_end: int) -> frozenset[int]:
    """Return all tokens that end an answer: vLLM stops at each that the model's generation config names."""
    try:
        ends = GenerationConfig.from_pretrained(model_path).eos_token_id
    except OSError:  # a model need not have one
        ends = None
    return frozenset([tokenizer_end, *(ends if isinstance(ends, list) else [ends] if ends is not None else [])])


def _tool_turns(multi_turn: Any) -> int | None:
    """Return how many turns of a leaf may call tools under verl's own limits on turns."""
    limits = []
    if multi_turn.max_user_turns:
        limits.append(multi_turn.max_user_turns)
    if multi_turn.max_assistant_turns:
        limits.append(multi_turn.max_assistant_turns - 1)
    return min(limits, default=None)
