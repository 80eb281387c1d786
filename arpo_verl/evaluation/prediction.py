r"""What a response answers: the last `\boxed{}` in its last `<answer>...</answer>`, else the text there."""

import re

from arpo_verl.reward.answer import extract_boxed
from arpo_verl.reward.quantity import number

_RESULTS = re.compile(r"<(result|tool_response)>.*?(?:\n</\1>|\Z)", re.DOTALL)
"""What tools wrote, in the tags of the paper and in those of Qwen's and Hermes' chat templates."""
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\{([^{}]*)\}")


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
    whole = _TEXT_COMMAND.fullmatch(text)
    return (whole[1].strip() if whole else text) or None


def vote_of(prediction: str | None) -> str | None:
    """Return what equal answers share: spaces, case, $, thousands separators and how a number is written don't count.

    >>> vote_of("1,000.50") == vote_of("1000.5"), vote_of("New York") == vote_of("new york")
    (True, True)
    """
    if prediction is None:
        return None
    text = re.sub(r"[\s$]", "", prediction.casefold())
    value = number(text)
    return text if value is None else str(value)
