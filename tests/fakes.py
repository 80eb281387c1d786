"""A scripted world for tests of the pure rollout: characters are tokens, every request is answered from a script."""

import asyncio
import random
from collections.abc import Callable, Sequence

from arpo_verl.rollout.protocols import Generation, ToolAnswer, ToolCall
from arpo_verl.rollout.tag_syntax import TagSyntax
from arpo_verl.rollout.tree import Leaf

END = "$"
"""Stands for the end-of-answer token."""


def ids(text: str) -> list[int]:
    return [ord(character) for character in text]


def text(token_ids: Sequence[int]) -> str:
    return "".join(map(chr, token_ids))


def syntax(tags: Sequence[str] = ("python", "search")) -> TagSyntax:
    return TagSyntax(tags=tags, decode=text, encode=ids, end_token_ids={ord(END)})


class ScriptedEngine:
    """Continues a context as `write` says, stops at closing tags and END as a real engine does, and keeps all
    requests."""

    def __init__(self, write: Callable[[str], str], logprob: float = -1.0, delays: random.Random | None = None) -> None:
        """
        Args:
            write: from the text so far, prompt included, to what the model would write next.
            logprob: of every token.
            delays: if given, every request takes a random number of event loop turns.
        """
        self.write = write
        self.logprob = logprob
        self.delays = delays
        self.requests: list[tuple[str, int, str]] = []

    async def generate(self, token_ids: list[int], max_tokens: int, request_id: str) -> Generation:
        assert max_tokens >= 1, "an engine refuses to generate nothing"
        self.requests.append((text(token_ids), max_tokens, request_id))
        await pause(self.delays)
        written = self.write(text(token_ids))
        for stop in (*syntax().stop_strings, END):
            if stop in written:
                written = written[: written.index(stop) + len(stop)]
        written = written[:max_tokens]
        return Generation(ids(written), [self.logprob] * len(written), weight_versions=(3, 3))


class ScriptedTools:
    """Answers every call with `answer`."""

    def __init__(self, answer: Callable[[ToolCall], str], delays: random.Random | None = None) -> None:
        self.answer = answer
        self.delays = delays
        self.calls: list[ToolCall] = []

    async def execute(self, call: ToolCall) -> ToolAnswer:
        self.calls.append(call)
        await pause(self.delays)
        return ToolAnswer(self.answer(call), "ok")


class Collector:
    """Keeps the finished leaves."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []

    async def __call__(self, leaf: Leaf) -> None:
        self.leaves.append(leaf)


async def pause(delays: random.Random | None) -> None:
    for _ in range(delays.randrange(6) if delays else 0):
        await asyncio.sleep(0)
