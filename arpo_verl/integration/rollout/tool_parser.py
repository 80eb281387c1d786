"""The tags as one of verl's tool-call formats (`multi_turn.format=arpo_tags`), for verl's own agent loops."""

import json
from typing import Any

from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser

from arpo_verl.rollout.tag_syntax import Tags, first_call

DEFAULT_TAGS = ("python", "search")


class TagToolParser(ToolParser):
    """Finds the first `<tool>text</tool>` of a turn.

    verl's `ToolAgentLoop` renders the result with the chat template and stops at the closing tag only where that is a
    single token; `tag_agent` does both as the paper does.
    """

    @property
    def stop_token_ids(self) -> list[int]:
        """The closing tags that are single tokens of this tokenizer."""
        encoded = [self.tokenizer.encode(f"</{tag}>", add_special_tokens=False) for tag in DEFAULT_TAGS]
        return [ids[0] for ids in encoded if len(ids) == 1]

    async def extract_tool_calls(
        self, responses_ids: list[int], tools: list[Any] | None = None
    ) -> tuple[str, list[FunctionCall]]:
        text = self.tokenizer.decode(responses_ids)
        schemas = {schema.function.name: schema.function for schema in tools or []}
        found = first_call(text, Tags(list(schemas) or DEFAULT_TAGS))
        if found is None or found[0].error is not None:
            return text, []
        call, end = found
        required = schemas[call.name].parameters.required if call.name in schemas else ["text"]
        arguments = json.dumps({required[0]: call.arguments}, ensure_ascii=False)
        return text[:end], [FunctionCall(name=call.name, arguments=arguments)]
