"""A real training on CPU with rewards of turns, information gain, hints and a reward that knows the step, at once."""

from pathlib import Path

import pandas
import pytest
from runs import LEAVES, PROMPTS, train

from arpo_verl.record import read_step

pytestmark = [pytest.mark.slow, pytest.mark.engine]

TESTS = Path(__file__).parent


def with_solutions(file: Path, folder: Path) -> Path:
    """Return a copy of a dataset whose rows have a solution."""
    rows = pandas.read_parquet(file)
    rows["extra_info"] = [{**info, "solution": "search for each word"} for info in rows["extra_info"]]
    rows.to_parquet(folder / "train.parquet")
    return folder / "train.parquet"


def test_all_signals_reach_the_update_and_what_fails_costs_no_leaf(world, tmp_path):
    steps = train(
        world,
        tmp_path,
        "algorithm.adv_estimator=arpo",
        "+arpo.advantage=turn_signals_of_mine.of_signals",
        "+arpo.turn_rewards=turn_signals_of_mine.short_turns",
        "+arpo.turn_reward_kwargs.limit=60",
        "+arpo.information_gain=true",
        "+arpo.information_gain_kwargs.template='<answer>\\boxed{{answer}}</answer>'",
        # No reward is above it, so that every prompt is grown once more.
        "+arpo.hints=true",
        "+arpo.hint_kwargs={levels:[0.5],threshold:10,template:' ({hint})'}",
        "+arpo.max_reward_seconds=5",
        f"data.train_files={with_solutions(world / 'train.parquet', tmp_path)}",
        "data.max_prompt_length=128",
        "reward.custom_reward_function.name=compute_staged_score",
        "+reward.custom_reward_function.reward_kwargs.stage_one_steps=1",
        "trainer.total_training_steps=2",
        PYTHONPATH=str(TESTS),
        TURN_REWARD_CALLS=str(tmp_path / "calls"),
    )
    assert len(steps) == 2
    for step in steps:
        assert step["arpo/leaves/min"] == step["arpo/leaves/max"] == LEAVES
        assert step["arpo/failed_fraction"] == 0
        assert step["info_gain/requests"] > 0 and step["info_gain/failed_fraction"] == 0
        assert -1 <= step["info_gain/mean/turn_1"] <= 1
        assert 0 <= step["turn_reward/mean/turn_1"] <= 1
        assert step["hint/hinted_fraction"] == step["hint/level_fraction/0.5"] == 1
        assert step["actor/grad_norm"] > 0
    assert [step["reward/stage"] for step in steps] == [1.0, 2.0]
    # Each prompt is grown twice, and the leaves of the plain prompts are not trained on.
    assert len((tmp_path / "calls").read_text()) == 2 * 2 * PROMPTS * LEAVES
    log = (tmp_path / "train.log").read_text(errors="replace")
    for failure in ("no answer within arpo.max_reward_seconds=5", "the fifth leaf fails", "got 0 rewards"):
        assert failure in log, failure
    prompts = read_step(tmp_path / "rollouts" / "1.jsonl").prompts
    assert [len(prompt.leaves) for prompt in prompts] == [LEAVES] * PROMPTS
    assert all("(search for" in prompt.text for prompt in prompts)
