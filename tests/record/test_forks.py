"""Which trees say most, what a fork was decided by, and what is shown of a rollout's texts."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import step_of

from arpo_verl.record import RecordedLeaf, RecordedPrompt, RecordedSegment
from arpo_verl.record.building import Row
from arpo_verl.record.forks import decision_of, interest, mean_advantage, most_telling, most_telling_rows
from arpo_verl.record.visible import beginning_and_end, question_of, visible
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.tree import Decision


def prompt(uid: str, rewards: list[float | None], forks: int = 0, excluded: int | None = None) -> RecordedPrompt:
    leaves = [
        RecordedLeaf(str(number), number, reward=reward, parent=0 if number >= len(rewards) - forks else None)
        for number, reward in enumerate(rewards)
    ]
    if excluded is not None:
        leaves[excluded] = replace(leaves[excluded], is_excluded=True)
    return RecordedPrompt(uid, "?", leaves=leaves)


def test_the_trees_with_the_largest_spread_come_first_then_those_with_the_most_forks_then_the_first():
    prompts = [
        prompt("calm", [1.0, 1.0]),
        prompt("none", [None, None]),
        prompt("wide", [0.0, 1.0, 0.0, 1.0]),  # 0.5
        prompt("excluded", [0.0, 9.0, 0.0], excluded=1),
        prompt("forked", [0.0, 1.0, 1.0, 0.0], forks=2),  # 0.5 too
        prompt("calm too", [0.5, 0.5]),
    ]
    names = [one.uid for one in most_telling(prompts, 9)]
    assert names == ["forked", "wide", "calm", "excluded", "calm too", "none"]
    assert [one.uid for one in most_telling(prompts, 2)] == ["forked", "wide"]
    assert most_telling(prompts, 0) == []


def test_a_reward_that_is_not_a_number_has_no_spread():
    assert interest([1.0, math.nan, 0.0, math.inf, None], 3) == (0.5, 3)
    assert interest([math.nan], 0) == (-1.0, 0)


def row(key: str, reward: float, parent: int | None = None, is_excluded: bool = False, replayed: int | None = None):
    uid, number, _ = key.split("_")
    record = LeafRecord(
        2, int(number), parent, number, None, False, "completed", False, is_excluded, [], [], None, [], None, 0, 0
    )
    return Row(key, uid, uid, int(number), [1], [2], np.ones(1), reward, record, replayed_step=replayed)


def test_rows_are_chosen_as_their_prompts_are():
    rows = [
        *(row("a_0_0", 1.0), row("a_1_0", 1.0, parent=0)),
        *(row("b_0_0", 0.0), row("b_1_0", 1.0)),
        *(row("c_0_0", 0.0), row("c_1_0", 1.0, parent=0)),
        *(row("d_0_0", 0.0), row("d_1_0", 5.0, is_excluded=True)),
        row("e_0_0", math.nan),
    ]
    assert [one.key for one in most_telling_rows(rows, 2)] == ["c_0_0", "c_1_0", "b_0_0", "b_1_0"]
    assert [one.prompt for one in most_telling_rows(rows, 9)] == [*"ccbbaad", "d", "e"]
    # A replayed row's history is not that of its tokens: it neither forks nor is it excluded.
    assert [one.prompt for one in most_telling_rows([row("f_0_0", 0.0), row("f_1_0", 1.0, 0, True, 3)], 1)] == ["f"] * 2


def test_a_fork_has_the_decision_of_its_parent_at_its_token():
    parent = RecordedLeaf("0", 0, decisions=[Decision(0, "coin", fork_token=5), Decision(1, "coin", fork_token=9)])
    child = RecordedLeaf("1", 1, parent=0, fork_token=9)
    refused, orphan = RecordedLeaf("2", 2, parent=0, fork_token=5), RecordedLeaf("3", 3, parent=8, fork_token=9)
    of_all = RecordedPrompt("u", "?", leaves=[parent, child, refused, orphan])
    assert decision_of(of_all, child) is parent.decisions[1]
    assert [decision_of(of_all, one) for one in (parent, refused, orphan)] == [None, None, None]


def test_every_fork_that_the_scheduler_grows_has_its_decision():
    _, prompts = step_of(1, prompts=6)
    forks = [(one, leaf) for one in prompts for leaf in one.leaves if leaf.parent is not None]
    assert forks and all(decision_of(one, leaf).forks > 0 for one, leaf in forks)


def test_a_leafs_advantage_is_the_mean_over_its_tokens():
    of_all = RecordedPrompt("u", "?", [RecordedSegment("", 3), RecordedSegment("", 7), RecordedSegment("", 1)])
    assert mean_advantage(of_all, RecordedLeaf("0", segments=[0, 1, 2], advantages=[1.0, None, -3.0])) == 0.0
    assert mean_advantage(of_all, RecordedLeaf("0", segments=[0, 1])) is None


def test_a_long_text_lacks_its_middle():
    assert beginning_and_end("abcdefghij", 10) == "abcdefghij"
    assert beginning_and_end("abcdefghijk", 10) == "abc … hijk"
    assert beginning_and_end("a\n\tb\x1b", 30) == "a b⟨U+001B⟩"


@given(st.text(st.characters(exclude_categories=())), st.integers(4, 40))
def test_a_shortened_text_is_on_one_line_of_its_width_and_shows_all_that_it_has(text, width):
    found = beginning_and_end(text * 20, width)
    assert len(found) <= width and len(found.splitlines()) <= 1 and visible(found) == found


def test_the_question_is_the_end_of_the_prompt_without_special_tokens():
    asked = "<s>" + "x" * 400 + " why?<e>"
    assert question_of(RecordedPrompt("u", asked, special=[(0, 3), (408, 411)])) == "x" * 295 + " why?"


def test_a_prompt_of_many_lines_is_one_line():
    assert question_of(RecordedPrompt("u", "one\n\n two ")) == "one two"
