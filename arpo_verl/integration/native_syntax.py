"""A model's own tool calls as the scheduler's `CallSyntax`: verl's tool parsers and chat templates.

The parser (`multi_turn.format`) finds the calls in a turn; results are appended as chat messages by verl's continuous
tokens, which keep what was sampled as it is (verl 0.9.1, `utils/tokenizer/continuous_token.py`).
"""

import json
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall

from arpo_verl.rollout.protocols import RenderedResults, ToolAnswer, ToolCall, Turn


class NativeSyntax:
    """Reads and renders one prompt's conversation through verl's own tool agent loop, which does not run itself."""

    def __init__(
        self, loop: ToolAgentLoop, prompt: list[dict[str, Any]], tools: Sequence[Any], end_token_ids: Collection[int]
    ) -> None:
        """
        Args:
            loop: supplies the parser, the tokenizer's templates and the shape of messages.
            prompt: the messages of the dataset row.
            tools: verl's tools that this prompt may call.
            end_token_ids: tokens that end a turn.
        """
        self._loop = loop
        self._prompt = prompt
        self._schemas = [tool.tool_schema for tool in tools]
        self._schema_dicts = [schema.model_dump(exclude_unset=True, exclude_none=True) for schema in self._schemas]
        self._end_token_ids = end_token_ids

    def ends_answer(self, token_id: int) -> bool:
        return token_id in self._end_token_ids

    async def is_over(self, token_ids: list[int]) -> bool:
        """A turn may hold several calls, so that only its end token ends it."""
        return token_ids[-1] in self._end_token_ids or token_ids[-1] in self._loop.tool_parser.stop_token_ids

    async def read_turn(self, token_ids: list[int]) -> Turn:
        content, found = await self._loop.tool_parser.extract_tool_calls(token_ids, self._schemas)
        message = self._loop._build_assistant_message(content, SimpleNamespace(tool_calls=found))
        return Turn([_call(one) for one in found], used=len(token_ids), message=message)

    async def render_results(
        self, context: list[int], messages: Sequence[dict[str, Any]], answers: Sequence[ToolAnswer]
    ) -> RenderedResults:
        calls = messages[-1]["tool_calls"]
        results: list[dict[str, Any]] = []
        for call, answer in zip(calls, answers, strict=False):  # a limit may have left the last calls unanswered
            identity = {"tool_call_id": call["id"]} if "id" in call else {}
            results.append({"role": "tool", "content": answer.text, **identity})
        before = [*self._prompt, *messages]
        merged, _, _ = await self._loop.ct_merge_context_msg(
            before, [*before, *results], context, [], None, tools=self._schema_dicts
        )
        kept = len(context) - merged.removed_prefix_token_count
        return RenderedResults(list(merged.token_ids[kept:]), results, merged.removed_prefix_token_count)


def _call(call: FunctionCall) -> ToolCall:
    try:
        arguments = json.loads(call.arguments)
    except json.JSONDecodeError as error:
        return ToolCall(call.name, {}, error=f"Invalid JSON in arguments for '{call.name}': {error}")
    if not isinstance(arguments, dict):
        return ToolCall(call.name, {}, error=f"Arguments for '{call.name}' are {arguments!r}; expected a JSON object")
    return ToolCall(call.name, arguments)
