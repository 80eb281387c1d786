r"""The `<think>` that a chat template has already written at the beginning of the model's turn.

Templates of R1's distillations and of Qwen3's thinking models end a prompt with `<think>\n`, so that the response
begins inside it and only closes it. The rollout knows the template and hands what it has opened to the reward in
`extra_info["response_prefix"]`; `reward.custom_reward_function.reward_kwargs.response_prefix` says it for others.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

RESPONSE_PREFIX = "response_prefix"
"""The key in `extra_info`, and the keyword of the reward functions."""
_THINK = re.compile(r"</?think>")
_OPENED = re.compile(r"<think>(?!.*</?think>).*\Z", re.DOTALL)
_QUESTION = [{"role": "user", "content": "?"}]


def template_prefix(render: Callable[[Sequence[Mapping[str, str]], bool], str]) -> str:
    r"""Return the open `<think>` with which a chat template begins the model's turn, "" where it opens none.

    Args:
        render: returns a conversation as the template writes it, with or without the beginning of the model's turn.

    >>> template_prefix(lambda messages, begins_turn: "<user>?" + "<model><think>\n" * begins_turn)
    '<think>\n'
    """
    whole, without = render(_QUESTION, True), render(_QUESTION, False)
    beginning = whole[len(without) :] if whole.startswith(without) else whole
    opened = _OPENED.search(beginning)
    return opened[0] if opened else ""


def whole_response(response: str, extra_info: Any, prefix: str | None, is_guessed: bool) -> str:
    """Return a response with the `<think>` that its prompt has opened.

    Args:
        response: what the model wrote.
        extra_info: of the row, with the rollout's `response_prefix` if it knows it.
        prefix: said by the configuration, which counts more than the rollout; None: not said.
        is_guessed: where neither says anything, whether a response that closes what it hasn't opened is taken for one
            whose prompt has opened it.
    """
    if prefix is None and isinstance(extra_info, Mapping):
        prefix = extra_info.get(RESPONSE_PREFIX)
    first = _THINK.search(response)
    if prefix is None:
        prefix = "<think>" if is_guessed and first and first[0] == "</think>" else ""
    # Some models write the tag again.
    return response if first and first[0] == "<think>" else prefix + response
