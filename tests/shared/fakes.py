"""A scripted world for tests of the pure rollout: characters are tokens, every request is answered from a script."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from arpo_verl.rollout.protocols import Generation, GenerationRequest, ToolAnswer, ToolCall
from arpo_verl.rollout.tag_syntax import Tags, TagSyntax
from arpo_verl.rollout.tree import Leaf

END = "$"
"""Stands for the end-of-answer token."""


def ids(text: str) -> list[int]:
    return [ord(character) for character in text]


def text(token_ids: Sequence[int]) -> str:
    return "".join(map(chr, token_ids))


def continued(context: str, *turns: str) -> str:
    """Return what is left to write of the turn that a context is in; `turns` are those before, between and after
    results, the last one for all that follow."""
    written = context.removeprefix("Q:").split("</result>")
    return turns[min(len(written), len(turns)) - 1][len(written[-1]) :]


def syntax(tags: Sequence[str] = ("python", "search")) -> TagSyntax:
    return TagSyntax(tags=Tags(tags), decode=text, encode=ids, end_token_ids={ord(END)})


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
        self.requests: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest) -> Generation:
        assert request.max_tokens >= 1, "an engine refuses to generate nothing"
        self.requests.append(request)
        await pause(self.delays)
        written = self.write(text(request.token_ids))
        for stop in (*syntax().tags.stop_strings, END):
            if stop in written:
                written = written[: written.index(stop) + len(stop)]
        written = written[: request.max_tokens]
        return Generation(
            ids(written),
            [self.logprob] * len(written),
            entropies=[-self.logprob] * min(len(written), request.entropy_tokens),
            weight_versions=(3, 3),
        )


class ScriptedTools:
    """Answers every call with `answer`."""

    def __init__(self, answer: Callable[[ToolCall], str], delays: random.Random | None = None) -> None:
        self.answer = answer
        self.delays = delays
        self.calls: list[ToolCall] = []

    async def execute(self, call: ToolCall, state: dict[str, Any], messages: Sequence[dict[str, Any]]) -> ToolAnswer:
        self.calls.append(call)
        state["calls"] = [*state.get("calls", []), call.arguments]
        await pause(self.delays)
        return ToolAnswer(self.answer(call), "ok")

    def can_fork(self, name: str) -> bool:
        return True


class Collector:
    """Keeps the finished leaves."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []

    async def __call__(self, leaf: Leaf) -> None:
        self.leaves.append(leaf)


async def pause(delays: random.Random | None) -> None:
    for _ in range(delays.randrange(6) if delays else 0):
        await asyncio.sleep(0)
