"""The gold answer as tokens after a state, in the form in which the run's policy would write it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ANSWER = "{answer}"
"""What a template has in the place of the answer."""


@dataclass(frozen=True)
class GoldAnswer:
    """The tokens to score."""

    token_ids: list[int]
    """The template up to the answer's last token; nothing after it can change the answer's probability."""
    scored: int
    """How many of the last tokens are the answer's."""


def gold_answer(tokenizer: Any, template: str, answer: str) -> GoldAnswer:
    """Return an answer as tokens.

    The template is encoded as a whole, so that the tokens are those that a policy would write. A token that holds a
    piece of the answer counts as the answer's, also where it holds a piece of the template, such as the space before
    it. A tokenizer that can't say where its tokens lie has template and answer encoded apart.

    Args:
        tokenizer: of transformers.
        template: a text with `{answer}` in it, once.
        answer: the gold answer.

    Raises:
        ValueError: the answer has no token.
    """
    before, _, after = template.partition(ANSWER)
    if getattr(tokenizer, "is_fast", False):
        ids, scored = _by_offsets(tokenizer, before, answer, after)
    else:
        scored_ids = _encoded(tokenizer.encode, answer)
        ids, scored = _encoded(tokenizer.encode, before) + scored_ids, len(scored_ids)
    if not scored:
        raise ValueError(f"the gold answer {answer!r:.80} has no token; expected a text: correct the dataset")
    return GoldAnswer(ids, scored)


def _by_offsets(tokenizer: Any, before: str, answer: str, after: str) -> tuple[list[int], int]:
    encoded = tokenizer(before + answer + after, add_special_tokens=False, return_offsets_mapping=True)
    start, end = len(before), len(before) + len(answer)
    touched = [index for index, (low, high) in enumerate(encoded["offset_mapping"]) if low < end and high > start]
    if not touched:
        return [], 0
    return list(encoded["input_ids"][: touched[-1] + 1]), touched[-1] - touched[0] + 1


def _encoded(encode: Callable[..., list[int]], text: str) -> list[int]:
    return list(encode(text, add_special_tokens=False))
