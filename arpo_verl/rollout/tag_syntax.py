"""The paper's call syntax: `<python>code</python>`, `<search>query</search>`, and ` <result>\\n...\\n</result>` as the
answer; all three are configurable.

A turn is what the model writes between two results. The first closing tag in it ends the call; the last matching
opening tag before it begins it. A closing tag without its opening tag is a call with an error, which the model gets to
read: ignoring it would let a model that writes nothing but closing tags go on for ever.

A result's own text opens and closes nothing (`arpo_verl.rollout.tool_text`).
"""

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.protocols import RenderedResults, ToolAnswer, ToolCall, Turn
from arpo_verl.rollout.tool_text import (
    NO_CONTROL_TOKENS,
    REWARD_TAGS,
    ControlTokens,
    ToolText,
    border_tags,
    control_tokens,
    template_tags,
)


@dataclass(frozen=True)
class Tags:
    """The format of a call and of its result."""

    tools: Sequence[str]
    """The tools' names."""
    opening: str = ArpoConfig.tag_open
    closing: str = ArpoConfig.tag_close
    result: str = ArpoConfig.result_template

    @property
    def stop_strings(self) -> list[str]:
        """The stop strings of the engine, which has to keep them in its output."""
        return [self.closing.replace("{tool}", tool) for tool in self.tools]

    @property
    def result_borders(self) -> tuple[str, str]:
        """The text before and after a result."""
        before, _, after = self.result.partition("{result}")
        return before, after

    @property
    def reserved_tags(self) -> set[str]:
        """The tags that a result's text must not contain.

        They are those of the calls and of the result, and those that the reward reads, in this format and the paper's.
        """
        writings = {(self.opening, self.closing), (ArpoConfig.tag_open, ArpoConfig.tag_close)}
        names = {*self.tools, *REWARD_TAGS}
        written = {tag.replace("{tool}", name) for pair in writings for tag in pair for name in names}
        return written | border_tags(self.result_borders)


def first_call(turn: str, tags: Tags) -> tuple[ToolCall, int] | None:
    """Return the first call of a turn and the index of the character after its closing tag, or None.

    >>> first_call("I add. <python>1+1</python>", Tags(["python"]))
    (ToolCall(name='python', arguments='1+1', error=None), 27)
    """
    ends = [
        (start, closing, tool)
        for tool, closing in zip(tags.tools, tags.stop_strings, strict=True)
        if (start := turn.find(closing)) >= 0
    ]
    if not ends:
        return None
    start, closing, tool = min(ends)
    opening = tags.opening.replace("{tool}", tool)
    begin = turn.rfind(opening, 0, start)
    end = start + len(closing)
    if begin < 0:
        return ToolCall(tool, "", error=f"Error: the closing tag of '{tool}' has no opening tag before it."), end
    return ToolCall(tool, turn[begin + len(opening) : start]), end


@dataclass(frozen=True)
class TagSyntax:
    """`CallSyntax` over a tokenizer. Sampled tokens are decoded to be read, never to be encoded again."""

    tags: Tags
    decode: Callable[[Sequence[int]], str]
    """Token ids to text, special tokens kept."""
    encode: Callable[[str], list[int]]
    """Text to token ids, without adding special tokens."""
    end_token_ids: Collection[int]
    control: ControlTokens = NO_CONTROL_TOKENS
    """The control tokens, which a result's text must not become."""
    template_tags: Collection[str] = ()
    """The tags of the chat template, which a result must not contain either."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, tags: Tags, end_token_ids: Collection[int] = ()) -> "TagSyntax":
        """Return the syntax over a Hugging Face tokenizer."""
        return cls(
            tags=tags,
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
            encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
            end_token_ids=end_token_ids,
            control=control_tokens(tokenizer),
            template_tags=template_tags(tokenizer),
        )

    def ends_answer(self, token_id: int) -> bool:
        return token_id in self.end_token_ids

    async def is_over(self, token_ids: list[int]) -> bool:
        return self.ends_answer(token_ids[-1]) or first_call(self.decode(token_ids), self.tags) is not None

    async def read_turn(self, token_ids: list[int]) -> Turn:
        """Return the first call, if there is one."""
        found = first_call(self.decode(token_ids), self.tags)
        if found is None:
            return Turn([], used=len(token_ids))
        call, _ = found
        # An engine that was asked in two requests does not see a closing tag that spans them, and runs on; it may also
        # end on a token that holds more than the tag's last character. Find the token that completes the tag.
        low, high = 1, len(token_ids)
        while low < high:
            middle = (low + high) // 2
            if first_call(self.decode(token_ids[:middle]), self.tags) is None:
                low = middle + 1
            else:
                high = middle
        return Turn([call], used=high)

    async def render_results(
        self, context: list[int], messages: Sequence[dict[str, Any]], answers: Sequence[ToolAnswer]
    ) -> RenderedResults:
        return RenderedResults([number for answer in answers for number in self.encode_result(answer.text)])

    def encode_result(self, text: str) -> list[int]:
        """Encode a tool's text as plain characters, once, with its tags."""
        return self._tool_text.encode_result(text)

    @functools.cached_property
    def _tool_text(self) -> ToolText:
        tags = self.tags.reserved_tags | set(self.template_tags)
        return ToolText(self.encode, self.decode, self.control, sorted(tags), self.tags.result_borders)
