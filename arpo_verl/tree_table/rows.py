"""The rows of the table: what a leaf did, where it forked and why, and what it was trained on."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from arpo_verl.record import RecordedLeaf, RecordedPrompt
from arpo_verl.record.forks import decision_of, mean_advantage
from arpo_verl.record.visible import beginning_and_end, question_of

QUESTION_CHARACTERS, TEXT_CHARACTERS, CALLS_CHARACTERS, NAME_CHARACTERS = 200, 600, 300, 80
"""The longest texts of a row; of longer ones the middle is left out."""


@dataclass(frozen=True)
class TreeRow:
    """A leaf. Texts are on one line, with characters that show nothing written out."""

    step: int
    prompt: str
    """The end of the prompt, where its question is."""
    leaf: int
    path: str
    parent: int | None
    """The leaf that it forked from; None: it started from the prompt."""
    fork_token: int | None
    """Length of the response where it forked."""
    fork_entropy: float | None
    """H there, in nats."""
    fork_score: float | None
    """P there, or what turns were ranked by in a round."""
    calls: str
    """Tools and how their calls ended, those of the prefix included."""
    reward: float | None
    advantage: float | None
    """Mean over the tokens that have one."""
    stop_reason: str
    """Why it ended, and whether it is excluded."""
    text: str
    """What it said from its fork on."""

    def values(self) -> list[str | int | float | None]:
        """Return the row in the order of `COLUMNS`."""
        return [getattr(self, name) for name in COLUMNS]


COLUMNS = [one.name for one in fields(TreeRow)]


def rows_of_step(step: int, prompts: Iterable[RecordedPrompt]) -> list[TreeRow]:
    """Return the rows of some prompts of a step, leaf by leaf."""
    return [_row(step, prompt, leaf) for prompt in prompts for leaf in prompt.leaves]


def _row(step: int, prompt: RecordedPrompt, leaf: RecordedLeaf) -> TreeRow:
    decision = decision_of(prompt, leaf)
    score = None if decision is None else decision.branch_score
    if decision is not None and score is None:
        score = decision.score
    calls = "; ".join(f"{call.tool}: {call.status}" for call in prompt.calls_of(leaf))
    reasons = [leaf.stop_reason or "unknown", *(["excluded"] if leaf.is_excluded else [])]
    return TreeRow(
        step=step,
        prompt=beginning_and_end(question_of(prompt), QUESTION_CHARACTERS),
        leaf=leaf.number,
        path=beginning_and_end(leaf.path, NAME_CHARACTERS),
        parent=leaf.parent,
        fork_token=leaf.fork_token,
        fork_entropy=None if decision is None else decision.entropy,
        fork_score=score,
        calls=beginning_and_end(calls, CALLS_CHARACTERS),
        reward=leaf.reward,
        advantage=mean_advantage(prompt, leaf),
        stop_reason=beginning_and_end(", ".join(reasons), NAME_CHARACTERS),
        text=beginning_and_end(_own_text(prompt, leaf), TEXT_CHARACTERS),
    )


def _own_text(prompt: RecordedPrompt, leaf: RecordedLeaf) -> str:
    """Return a leaf's text from its fork on, with its special tokens."""
    start, end, kept = leaf.fork_token or 0, 0, []
    for segment in prompt.segments_of(leaf):
        end += segment.tokens
        # A leaf of another agent loop has segments without a count of tokens.
        if end > start or not segment.tokens:
            kept.append(segment.text)
    return "".join(kept)
