"""Hints: when a prompt is grown again, with how much of its solution, and which leaves come out."""

import math

import pytest

from arpo_verl.rollout.hints import HintSettings, beginning_of, grown_with_hints, solution_of

SAMPLE = {
    "raw_prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
    "extra_info": {"solution": "one two three four", "index": 3},
    "uid": "u",
}


async def grown(settings: HintSettings, rewards: dict, sample=SAMPLE):
    """Grow leaves whose rewards depend on the hint; return what came out and the hints that were tried."""
    tried = []

    async def grow(row, hint):
        tried.append((hint, row["raw_prompt"][-1]["content"]))
        outcome = rewards[hint]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    row, hint, leaves = await grown_with_hints(settings, sample, grow, lambda reward: reward)
    return row["raw_prompt"][-1]["content"], hint, leaves, tried


async def test_a_prompt_with_a_success_is_grown_once_and_not_changed():
    content, hint, leaves, tried = await grown(HintSettings(), {0.0: [0.0, 1.0]})
    assert (content, hint, leaves) == ("Q", 0.0, [0.0, 1.0])
    assert tried == [(0.0, "Q")]


async def test_hints_grow_until_a_leaf_succeeds_and_its_tree_replaces_those_before():
    rewards = {0.0: [0.0, -1.0], 0.25: [0.0, 0.0], 0.5: [0.0, 1.0]}
    content, hint, leaves, tried = await grown(HintSettings(template="\n{hint}"), rewards)
    # 18 characters: a quarter ends within "two", half within "three".
    assert [content for _, content in tried] == ["Q", "Q\none two", "Q\none two three"]
    assert (content, hint, leaves) == ("Q\none two three", 0.5, [0.0, 1.0])


async def test_a_prompt_that_fails_with_every_hint_keeps_the_last_tree():
    rewards = {0.0: [0.0], 0.25: [0.0], 0.5: [0.0], 0.75: [-1.0]}
    _, hint, leaves, tried = await grown(HintSettings(), rewards)
    assert (hint, leaves, len(tried)) == (0.75, [-1.0], 4)


@pytest.mark.parametrize("outcome", [RuntimeError("the engine is gone"), None], ids=["error", "too long"])
async def test_a_hinted_tree_that_cant_be_grown_leaves_the_one_before(outcome):
    _, hint, leaves, _ = await grown(HintSettings(), {0.0: [0.0], 0.25: [-0.5], 0.5: outcome})
    assert (hint, leaves) == (0.25, [-0.5])


async def test_what_the_plain_prompt_raises_is_raised():
    with pytest.raises(RuntimeError, match="gone"):
        await grown(HintSettings(), {0.0: RuntimeError("gone")})


@pytest.mark.parametrize(
    "odd", [{"extra_info": {"solution": " "}}, {"extra_info": None}, {"raw_prompt": [{"role": "user", "content": []}]}]
)
async def test_a_row_without_a_solution_or_without_a_text_is_not_hinted(odd):
    _, hint, leaves, tried = await grown(HintSettings(), {0.0: [0.0]}, SAMPLE | odd)
    assert (hint, leaves, len(tried)) == (0.0, [0.0], 1)


async def test_hints_begin_with_their_first_step():
    rewards, settings = {0.0: [0.0], 0.25: [1.0]}, HintSettings(first_step=10)
    _, before, _, _ = await grown(settings, rewards, SAMPLE | {"global_steps": 9})
    _, after, _, _ = await grown(settings, rewards, SAMPLE | {"global_steps": 10})
    assert (before, after) == (0.0, 0.25)


async def test_the_row_of_the_dataset_is_not_changed():
    await grown(HintSettings(), {0.0: [0.0], 0.25: [1.0]})
    assert SAMPLE["raw_prompt"][-1]["content"] == "Q"


@pytest.mark.parametrize(
    ("rewards", "failed"),
    [
        ([0.0, 0.0], True),
        ([0.0, 0.1], False),
        ([-1.0, math.nan], True),
        ([None, None], False),
        ([math.nan], False),
        ([], False),
    ],
)
def test_leaves_have_failed_where_no_known_reward_is_above_the_threshold(rewards, failed):
    assert HintSettings().all_failed(rewards) is failed
    assert HintSettings(threshold=0.5).all_failed([0.5, 0.2]) and not HintSettings(threshold=-0.5).all_failed([0.0])


@pytest.mark.parametrize(
    ("level", "beginning"), [(0.25, "one two"), (0.5, "one two three"), (0.75, "one two three four"), (1, None)]
)
def test_a_share_of_a_solution_ends_with_a_word(level, beginning):
    assert beginning_of("one two three four", level) == (beginning or "one two three four")


def test_a_solution_lies_where_the_settings_say():
    assert solution_of({"extra_info": {"answer": {"text": "x"}}}, "extra_info.answer.text") == "x"
    for field in ("extra_info.answer", "extra_info.none", "solution", "extra_info.answer.text.more"):
        assert solution_of({"extra_info": {"answer": {"text": "x"}}}, field) is None


@pytest.mark.parametrize(
    "values",
    [
        {"levels": []},
        {"levels": [0.5, 0.25]},
        {"levels": [0.5, 0.5]},
        {"levels": [0.0]},
        {"levels": [1.5]},
        {"levels": ["0.5"]},
        {"levels": 0.5},
        {"threshold": None},
        {"threshold": math.nan},
        {"first_step": -1},
        {"first_step": 1.0},
        {"field": ""},
        {"template": "no place"},
        {"template": "{hint}{hint}"},
    ],
)
def test_settings_that_cant_be_used_are_refused_by_name(values):
    with pytest.raises(ValueError, match=rf"arpo\.hint_kwargs\.{next(iter(values))}="):
        HintSettings.of(values)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match=r"arpo\.hint_kwargs\.level is not a known setting; expected"):
        HintSettings.of({"level": 0.5})
    assert HintSettings.of({"levels": [0.5, 1]}).levels == (0.5, 1)
