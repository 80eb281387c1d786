"""The pairs of answers in `answer_pairs.jsonl`, judged by hand, and what the comparison makes of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arpo_verl.reward.math_check import MathChecker, MathCheckResult
from arpo_verl.reward.text_match import exact_match

FILE = Path(__file__).with_name("answer_pairs.jsonl")
SECONDS = 60.0
"""For a comparison on a machine that does other work."""


@dataclass(frozen=True)
class AnswerPair:
    """Two answers; which of them is the accepted one must not matter."""

    subject: str
    """`text` or `mathematics`."""
    kind: str
    equal: bool
    """Whether a person calls them equal."""
    one: str
    other: str
    missed: bool = False
    """The comparison is known to say otherwise."""

    @property
    def directions(self) -> list[tuple[str, str]]:
        return [(self.one, self.other), (self.other, self.one)]


def read_pairs() -> list[AnswerPair]:
    return [AnswerPair(**json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines()]


def wrong_directions(pair: AnswerPair, checker: MathChecker) -> Iterator[tuple[str, str]]:
    """Yield (prediction, accepted answer) where the comparison does not say what a person says."""
    for prediction, truth in pair.directions:
        if pair.subject == "text":
            is_equal = exact_match(prediction, [truth]) == 1
        else:
            is_equal = checker.check(prediction, [truth], SECONDS) is MathCheckResult.EQUAL
        if is_equal != pair.equal:
            yield prediction, truth
