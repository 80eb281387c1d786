"""A model's own tool calls as the scheduler's `CallSyntax`: verl's tool parsers and chat templates.

The parser (`multi_turn.format`) finds the calls in a turn (`native_calls.py`); results are appended as chat messages by
verl's continuous tokens, which keep what was sampled as it is (verl 0.9.1, `utils/tokenizer/continuous_token.py`).
"""

import json
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall

from arpo_verl.integration.rollout.native_calls import FORMATS, UNKNOWN_TOOL, NativeCall, read_hermes, read_parsed
from arpo_verl.integration.rollout.tools import tool_schema, unknown_tool
from arpo_verl.rollout.protocols import RenderedResults, ToolAnswer, ToolCall, Turn
from arpo_verl.rollout.tool_text import CUT, REWARD_TAGS, ToolText, control_tokens, template_tags

VISIBLE_CUT = "\\"
"""Stands for `CUT` where verl encodes a result by a processor of images, which can't be told to encode in pieces."""
RESULT_TAGS = ("<tool_response>", "</tool_response>", "<tool_result>", "</tool_result>")
"""What templates that are no text of Jinja's, and readers of responses, take for a result."""


class NativeSyntax:
    """Reads and renders one prompt's conversation through verl's own tool agent loop, which does not run itself."""

    def __init__(
        self, loop: ToolAgentLoop, prompt: list[dict[str, Any]], tools: Sequence[Any], end_token_ids: Collection[int]
    ) -> None:
        """
        Args:
            loop: supplies the parser, the tokenizer's templates and the shape of messages. Its continuous tokens are
                made to encode in pieces.
            prompt: the messages of the dataset row.
            tools: verl's tools that this prompt may call.
            end_token_ids: tokens that end a turn.
        """
        self._loop = loop
        self._prompt = prompt
        self._schemas = [tool.tool_schema for tool in tools]
        self._schema_dicts = [tool_schema(tool) for tool in tools]
        self._names = [tool.name for tool in tools]
        self._end_token_ids = end_token_ids
        self._tool_text = _tool_text(loop.tokenizer, loop.tool_parser_name)
        builder = loop.continuous_token_builder
        self._is_cut_visible = builder.supports_multimodal()
        if not self._is_cut_visible:
            builder.tokenizer = CuttingTokenizer(loop.tokenizer, self._tool_text)

    def ends_answer(self, token_id: int) -> bool:
        return token_id in self._end_token_ids

    async def is_over(self, token_ids: list[int]) -> bool:
        """A turn may hold several calls, so that only its end token ends it."""
        return token_ids[-1] in self._end_token_ids or token_ids[-1] in self._loop.tool_parser.stop_token_ids

    async def read_turn(self, token_ids: list[int]) -> Turn:
        """Return all calls, those that can't be read with an error."""
        is_over = await self.is_over(token_ids)
        text = self._loop.tokenizer.decode(token_ids, skip_special_tokens=False)
        if self._loop.tool_parser_name == "hermes":
            content, calls = read_hermes(text, is_over)
        else:
            content, found = await self._parse(token_ids, text)
            calls = read_parsed(self._loop.tool_parser_name, text, found, is_over)
        return Turn([self._call(one) for one in calls], used=len(token_ids), message=self._message(content, calls))

    async def _parse(self, token_ids: list[int], text: str) -> tuple[str, list[FunctionCall]]:
        try:
            content, found = await self._loop.tool_parser.extract_tool_calls(token_ids, self._schemas)
        except Exception:  # some of verl's parsers raise what a hostile turn makes of them
            return text, []
        return content, found

    def _call(self, call: NativeCall) -> ToolCall:
        """A call of no known tool is counted under one name, because a metric's name must not be the model's choice."""
        if call.name in self._names:
            return ToolCall(call.name, call.arguments, call.error)
        return ToolCall(UNKNOWN_TOOL, {}, call.error or unknown_tool(call.name, self._names))

    def _message(self, content: str, calls: list[NativeCall]) -> dict[str, Any]:
        parsed = [
            FunctionCall(
                name=self._inert(call.name),
                arguments=json.dumps(call.arguments, ensure_ascii=False),
                tool_call_id=None if call.id is None else self._inert(call.id),
            )
            for call in calls
        ]
        message: dict[str, Any] = self._loop._build_assistant_message(content, SimpleNamespace(tool_calls=parsed))
        return message

    async def render_results(
        self, context: list[int], messages: Sequence[dict[str, Any]], answers: Sequence[ToolAnswer]
    ) -> RenderedResults:
        # A limit may have left the last calls unanswered; some templates want a result for each call that they see.
        calls = messages[-1]["tool_calls"][: len(answers)]
        results: list[dict[str, Any]] = []
        for call, answer in zip(calls, answers, strict=True):
            identity = {"tool_call_id": call["id"]} if "id" in call else {}
            results.append({"role": "tool", "content": self._inert(answer.text), **identity})
        before = [*self._prompt, *messages[:-1], {**messages[-1], "tool_calls": calls}]
        merged, _, _ = await self._loop.ct_merge_context_msg(
            before, [*before, *results], context, [], None, tools=self._schema_dicts
        )
        kept = len(context) - merged.removed_prefix_token_count
        shown = [{**result, "content": result["content"].replace(CUT, "")} for result in results]
        return RenderedResults(list(merged.token_ids[kept:]), shown, merged.removed_prefix_token_count)

    def _inert(self, text: str) -> str:
        prepared = self._tool_text.prepared(text)
        return prepared.replace(CUT, VISIBLE_CUT) if self._is_cut_visible else prepared


def _tool_text(tokenizer: Any, form: str) -> ToolText:
    """Return what keeps results text: the markers of the format, of the chat template, and the reward's tags."""
    control = control_tokens(tokenizer)
    markers = {*RESULT_TAGS, *(FORMATS[form].markers if form in FORMATS else ())}
    reward_tags = {f"<{slash}{name}>" for name in REWARD_TAGS for slash in ("", "/")}
    return ToolText(
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        control=control,
        # What is a special token is kept text by the way it is encoded.
        tags=sorted((markers - control.special_texts) | template_tags(tokenizer) | reward_tags),
    )


class CuttingTokenizer:
    """A tokenizer that encodes in pieces where a text has a `CUT`; in all else it is the one that it is made of."""

    def __init__(self, tokenizer: Any, tool_text: ToolText) -> None:
        self._tokenizer = tokenizer
        self._tool_text = tool_text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, **kwargs: Any) -> Any:
        return self._tool_text.encode(text) if CUT in text else self._tokenizer.encode(text, **kwargs)

    def apply_chat_template(self, messages: Any, *, tokenize: bool = True, **kwargs: Any) -> Any:
        """verl asks for token ids without a dictionary (`utils/tokenizer/chat_template.py`)."""
        if tokenize:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)
            if CUT in text:
                return self._tool_text.encode(text)
        return self._tokenizer.apply_chat_template(messages, tokenize=tokenize, **kwargs)
