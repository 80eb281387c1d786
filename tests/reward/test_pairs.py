"""What is equal to what: hundreds of pairs judged by hand, in both directions, and the document that counts them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from answer_comparison import HEAD, Counts
from answer_pairs import AnswerPair, read_pairs, wrong_directions

from arpo_verl.reward import compute_score
from arpo_verl.reward.math_check import MathChecker

PAIRS = read_pairs()
KINDS = list(dict.fromkeys((pair.subject, pair.kind) for pair in PAIRS))
DOCUMENT = Path(__file__).parents[2] / "docs" / "answers.md"


@pytest.fixture(scope="module")
def checker() -> Iterator[MathChecker]:
    with contextlib.closing(MathChecker(workers=1)) as checker:
        yield checker


def of_kind(subject: str, kind: str) -> list[AnswerPair]:
    return [pair for pair in PAIRS if (pair.subject, pair.kind) == (subject, kind)]


@pytest.mark.parametrize(("subject", "kind"), KINDS)
def test_the_comparison_says_what_a_person_says_in_both_directions(checker, subject, kind):
    wrong = {pair: list(wrong_directions(pair, checker)) for pair in of_kind(subject, kind)}
    assert {pair: found for pair, found in wrong.items() if found and not pair.missed} == {}
    # A pair that is no longer missed is good news, and the file and the document have to say so.
    assert [pair for pair, found in wrong.items() if len(found) < 2 and pair.missed] == []


def test_there_are_enough_pairs_of_both_sorts_and_none_twice():
    assert len(PAIRS) >= 400
    assert sum(pair.equal for pair in PAIRS) >= 200
    assert sum(not pair.equal for pair in PAIRS) >= 200
    assert len({(pair.subject, frozenset((pair.one, pair.other))) for pair in PAIRS}) == len(PAIRS)
    assert sum(pair.missed for pair in PAIRS) <= 0.05 * len(PAIRS)


def test_the_document_quotes_the_counts():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert HEAD[0] in text
    for subject, kind in KINDS:
        counts = Counts()
        for pair in of_kind(subject, kind):
            counts.add(pair.equal, 2 * pair.missed)
        assert counts.row(subject, kind) in text
    for subject in ("text", "mathematics"):
        counts = Counts()
        for pair in PAIRS:
            if pair.subject == subject:
                counts.add(pair.equal, 2 * pair.missed)
        assert counts.row(f"**{subject}**", "**all**") in text
    for pair in PAIRS:
        if pair.missed:
            assert f"`{pair.one}`" in text and f"`{pair.other}`" in text


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.subject == "text" and not pair.missed][::7])
def test_the_reward_gives_the_comparisons_verdict(pair):
    balanced = pair.one.replace(r"\{", "").replace(r"\}", "")
    if balanced.count("{") == balanced.count("}"):
        acc = compute_score("nq", rf"<answer>\boxed{{{pair.one}}}</answer>", pair.other)["acc"]
        assert (acc == 1) == pair.equal or acc < 1
