"""The paper's call syntax: `<python>code</python>`, `<search>query</search>`, and ` <result>\\n...\\n</result>` as the
answer.

A turn is what the model writes between two results. The first closing tag in it ends the call; the last matching
opening tag before it begins it. A closing tag without its opening tag is a call with an error, which the model gets to
read: ignoring it would let a model that writes nothing but closing tags go on for ever.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from arpo_verl.rollout.protocols import ToolCall

RESULT = " <result>\n{text}\n</result>"


def first_call(turn: str, tags: Sequence[str]) -> tuple[ToolCall, int] | None:
    """Return the first call of a turn and the index of the character after its closing tag, or None.

    >>> first_call("I add. <python>1+1</python>", ["python"])
    (ToolCall(name='python', text='1+1', error=None), 27)
    """
    ends = [(start, tag) for tag in tags if (start := turn.find(f"</{tag}>")) >= 0]
    if not ends:
        return None
    start, tag = min(ends)
    end = start + len(f"</{tag}>")
    opening = turn.rfind(f"<{tag}>", 0, start)
    if opening < 0:
        return ToolCall(tag, "", error=f"Error: </{tag}> without <{tag}>."), end
    return ToolCall(tag, turn[opening + len(f"<{tag}>") : start]), end


@dataclass(frozen=True)
class TagSyntax:
    """`CallSyntax` over a tokenizer. Sampled tokens are decoded to be read, never to be encoded again."""

    tags: Sequence[str]
    """One tag a tool: the tools' names."""
    decode: Callable[[Sequence[int]], str]
    """Token ids to text, special tokens kept."""
    encode: Callable[[str], list[int]]
    """Text to token ids, without adding special tokens."""
    end_token_ids: Collection[int]

    @property
    def stop_strings(self) -> list[str]:
        """Where the engine has to stop; it has to keep them in its output."""
        return [f"</{tag}>" for tag in self.tags]

    def ends_answer(self, token_id: int) -> bool:
        return token_id in self.end_token_ids

    def find_call(self, token_ids: list[int]) -> tuple[ToolCall, int] | None:
        found = first_call(self.decode(token_ids), self.tags)
        if found is None:
            return None
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
        return call, high

    def encode_result(self, text: str) -> list[int]:
        return self.encode(RESULT.format(text=text))
