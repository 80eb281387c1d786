"""Counts what the comparison of answers gets wrong over `tests/shared/answer_pairs.jsonl`, as a Markdown table.

python tests/benchmarks/answer_comparison.py
"""

import contextlib
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from answer_pairs import read_pairs, wrong_directions

from arpo_verl.reward.math_check import MathChecker


@dataclass
class Counts:
    """Comparisons of one kind; each pair is compared in both directions."""

    equal: int = 0
    rejected: int = 0
    different: int = 0
    accepted: int = 0

    def add(self, is_equal: bool, wrong: int) -> None:
        """Count a pair."""
        if is_equal:
            self.equal += 2
            self.rejected += wrong
        else:
            self.different += 2
            self.accepted += wrong

    def row(self, *names: str) -> str:
        return f"| {' | '.join(names)} | {self.equal} | {self.rejected} | {self.different} | {self.accepted} |"


HEAD = ["| | kind | equal | false rejects | different | false accepts |", "|---|---|---|---|---|---|"]


def table() -> str:
    """Return the counts by kind, and over all of a subject."""
    kinds: defaultdict[tuple[str, str], Counts] = defaultdict(Counts)
    totals: defaultdict[str, Counts] = defaultdict(Counts)
    with contextlib.closing(MathChecker()) as checker:
        for pair in read_pairs():
            wrong = len(list(wrong_directions(pair, checker)))
            kinds[pair.subject, pair.kind].add(pair.equal, wrong)
            totals[pair.subject].add(pair.equal, wrong)
    lines = [counts.row(*names) for names, counts in kinds.items()]
    lines += [counts.row(f"**{subject}**", "**all**") for subject, counts in totals.items()]
    return "\n".join([*HEAD, *lines])


if __name__ == "__main__":
    print(table())
