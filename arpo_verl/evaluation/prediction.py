r"""The answer of a response (the last box in its last `<answer>...</answer>`, else the text there), and its vote."""

import re
from collections.abc import Callable, Sequence

from arpo_verl.reward.answer import extract_boxed
from arpo_verl.reward.plain_text import plain_text
from arpo_verl.reward.text_match import exact_match
from arpo_verl.reward.unwrap import unwrap

_RESULTS = re.compile(r"<(result|tool_response)>.*?(?:\n</\1>|\Z)", re.DOTALL)
"""What tools wrote, in the tags of the paper and in those of Qwen's and Hermes' chat templates."""


def prediction_of(output: str) -> str | None:
    r"""Return the answer of a response, None if it has none. An answer inside a tool's result is not the response's.

    >>> prediction_of(r"<think>6*7</think><answer>It is \boxed{\text{forty two}}.</answer>")
    'forty two'
    """
    before, closing, _ = _RESULTS.sub("", output).rpartition("</answer>")
    _, opening, answer = before.rpartition("<answer>")
    if not (closing and opening):
        return None
    boxed = extract_boxed(answer)
    text = (answer if boxed is None else boxed).strip()
    return unwrap(text, trailing="").strip() or text or None


def same_text(one: str, other: str) -> bool:
    """Return whether two answers are equal as text, where case and spaces between words don't count."""
    return exact_match(one, [other]) == 1 or _squeezed(one) == _squeezed(other) != ""


def _squeezed(text: str) -> str:
    """Return a text without case and without spaces but those between two numbers."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", plain_text(text).casefold())


def votes_of(predictions: Sequence[str | None], is_same: Callable[[str, str], bool] = same_text) -> list[str | None]:
    r"""Return the vote of each answer: the first of the answers that equal it; None where there is no answer.

    Args:
        predictions: the answers of one prompt's samples.
        is_same: whether two answers are equal; asked in both directions, as which of them is right isn't known.

    >>> votes_of(["0.5", r"\frac{1}{2}", "1/2", None, "2"])
    ['0.5', '0.5', '0.5', None, '2']
    """
    votes: list[str | None] = []
    candidates: list[str] = []
    for prediction in predictions:
        if prediction is None:
            votes.append(None)
            continue
        equals = (
            one for one in candidates if one == prediction or is_same(one, prediction) or is_same(prediction, one)
        )
        vote = next(equals, prediction)
        if vote == prediction and prediction not in candidates:
            candidates.append(prediction)
        votes.append(vote)
    return votes
