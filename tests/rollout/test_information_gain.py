"""Information gain of turns: what is scored, how often, and what a failing server costs."""

import asyncio
import math

import pytest
from fakes import ids, text

from arpo_verl.rollout.gold_answer import gold_answer
from arpo_verl.rollout.information_gain import InformationGain, LeafGains
from arpo_verl.rollout.tree import Leaf, Segment, StopReason
from arpo_verl.tiny_world.model import make_tokenizer


def leaf(number: int, *parts: tuple[int, str]) -> Leaf:
    """A leaf of segments (id, text); a text in square brackets is a tool result."""
    segments = [Segment(one, ids(part), not part.startswith("["), [0.0] * len(part)) for one, part in parts]
    return Leaf(number, str(number), "root", segments=segments, stop_reason=StopReason.COMPLETED)


class Scorer:
    """Answers with the probability of a state, by its text; keeps the states that it was asked for."""

    def __init__(self, probabilities: dict[str, float], delay: float = 0.0) -> None:
        self.probabilities, self.delay = probabilities, delay
        self.asked: list[str] = []

    async def __call__(self, context: list[int], request_id: str) -> list[float]:
        assert request_id == "root"
        self.asked.append(text(context))
        await asyncio.sleep(self.delay)
        # Two tokens whose geometric mean is the probability.
        log = math.log(self.probabilities[text(context)])
        return [log - 0.5, log + 0.5]


P = {"Q": 0.1, "QA[a]": 0.4, "QA[a]B[b]": 0.3, "QA[a]C[c]": 0.9}
FIRST = leaf(0, (0, "A"), (1, "[a]"), (2, "B"), (3, "[b]"), (4, "x"))
SECOND = leaf(1, (0, "A"), (1, "[a]"), (5, "C"), (6, "[c]"), (7, "y"))


async def gains(scorer, *leaves: Leaf, seconds: float = 5.0) -> list[LeafGains]:
    measured = InformationGain(ids("Q"), scorer, seconds)
    found = await asyncio.gather(*map(measured.of_leaf, leaves))
    await measured.close()
    return found


async def test_a_gain_is_the_difference_of_geometric_mean_probabilities_of_the_answer():
    [found] = await gains(Scorer(P), FIRST)
    # .4 - .1 and .3 - .4; the answer has no result and so no gain.
    assert found.gains[:2] == pytest.approx([0.3, -0.1])
    assert found.gains[2] is None
    assert (found.requests, found.failures) == (3, 0) and found.seconds >= 0


async def test_each_distinct_state_of_a_tree_is_scored_once():
    scorer = Scorer(P)
    first, second = await gains(scorer, FIRST, SECOND)
    assert sorted(scorer.asked) == sorted(["Q", "QA[a]", "QA[a]B[b]", "QA[a]C[c]"])
    assert first.gains[0] == second.gains[0] and second.gains[1] == pytest.approx(0.5)
    assert (first.requests, second.requests) == (3, 1)


async def test_the_gains_of_a_leaf_sum_to_the_whole_change():
    [found] = await gains(Scorer(P), SECOND)
    assert sum(found.gains[:2]) == pytest.approx(P["QA[a]C[c]"] - P["Q"])


async def test_a_leaf_without_a_result_asks_for_nothing():
    scorer = Scorer(P)
    [found] = await gains(scorer, leaf(0, (0, "x")))
    assert found == LeafGains([None]) and scorer.asked == []


async def test_a_prompt_without_a_gold_answer_has_no_gains():
    [found] = await gains(None, FIRST)
    assert found == LeafGains([None, None, None])


async def test_a_state_that_cant_be_scored_leaves_out_the_gains_beside_it():
    [found] = await gains(Scorer({key: value for key, value in P.items() if key != "QA[a]"}), FIRST)
    assert found.gains == [None, None, None]
    assert (found.requests, found.failures) == (3, 1)
    [found] = await gains(Scorer({**P, "QA[a]B[b]": math.nan}), FIRST)
    assert found.gains[0] == pytest.approx(0.3) and found.gains[1] is None


async def test_a_request_without_an_answer_in_time_is_a_failure_and_nothing_waits_for_it():
    [found] = await asyncio.wait_for(gains(Scorer(P, delay=1000), FIRST, seconds=0.05), 3)
    assert found.gains == [None, None, None] and found.failures == 3


async def test_a_leaf_that_is_cancelled_takes_no_other_leafs_scores_with_it():
    measured = InformationGain(ids("Q"), Scorer(P, delay=0.05), 5.0)
    first, second = (asyncio.create_task(measured.of_leaf(one)) for one in (FIRST, SECOND))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).gains[:2] == pytest.approx([0.3, 0.5])
    await measured.close()


async def test_closing_ends_what_is_under_way():
    measured = InformationGain(ids("Q"), Scorer(P, delay=1000), 1000.0)
    waiting = asyncio.create_task(measured.of_leaf(FIRST))
    await asyncio.sleep(0.01)
    await measured.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("answer", ["79", "Zorvia", "é 1/2"])
def test_the_answer_is_encoded_within_its_template_and_nothing_after_it_is_sent(tokenizer, answer):
    template = r"<answer>The answer is \boxed{{answer}}</answer>"
    gold = gold_answer(tokenizer, template, answer)
    written = tokenizer.decode(gold.token_ids)
    assert written == template.partition("{answer}")[0] + answer
    assert tokenizer.decode(gold.token_ids[-gold.scored :]) == answer
    whole = tokenizer.encode(template.replace("{answer}", answer), add_special_tokens=False)
    assert whole[: len(gold.token_ids)] == gold.token_ids


class Pairs:
    """A fast tokenizer whose tokens are pairs of characters."""

    is_fast = True

    def __call__(self, written: str, **_) -> dict:
        starts = range(0, len(written), 2)
        return {
            "input_ids": [written[at : at + 2] for at in starts],
            "offset_mapping": [(at, min(at + 2, len(written))) for at in starts],
        }


def test_a_token_with_a_piece_of_the_answer_counts_as_the_answers():
    gold = gold_answer(Pairs(), "(: {answer})", "79")
    assert gold.token_ids == ["(:", " 7", "9)"] and gold.scored == 2


class Slow:
    """A tokenizer that does not say where its tokens lie."""

    is_fast = False

    def encode(self, written: str, add_special_tokens: bool) -> list[str]:
        assert not add_special_tokens
        return list(written)


def test_a_tokenizer_without_offsets_encodes_template_and_answer_apart():
    gold = gold_answer(Slow(), "<{answer}>", "79")
    assert gold.token_ids == ["<", "7", "9"] and gold.scored == 2


@pytest.mark.parametrize("kind", [Pairs(), Slow()], ids=["fast", "slow"])
def test_an_answer_without_a_token_is_refused(kind):
    with pytest.raises(ValueError, match="the gold answer '' has no token"):
        gold_answer(kind, "a: {answer}", "")
