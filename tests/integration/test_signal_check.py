"""Rewards of turns, information gain, hints and staged rewards that can't work end before Ray starts."""

import pandas
import pytest
import verl  # noqa: F401  registers the resolver that the preset uses
from hydra import compose, initialize_config_module

from arpo_verl.preflight.checks import check_parts
from arpo_verl.preflight.dataset_check import check_dataset

OWN = """
def by_length(leaf, scale=1.0):
    return [scale * len(turn.text) for turn in leaf.turns]

def nothing():
    return []
"""
ROW = {"data_source": "test", "prompt": [{"role": "user", "content": "1+1?"}]}


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "arpo_own_turns.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


def configuration(*overrides: str):
    with initialize_config_module("arpo_verl.config", version_base=None):
        return compose("arpo_trainer", overrides=["platform=cpu", *overrides])


TERM = "arpo.advantage=term_sum +arpo.advantage_kwargs.terms=[{unit:node,signal:info_gain,baseline:turn}]"
LINEAR = "arpo.rollout=linear actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent"
STAGED = "reward.custom_reward_function.name=compute_staged_score"
STEPS = "+reward.custom_reward_function.reward_kwargs.stage_one_steps=10"
FLAWED = "reward.custom_reward_function.name=compute_flawed_score"


@pytest.mark.parametrize(
    "overrides",
    [
        "arpo.turn_rewards=tools",
        "arpo.turn_rewards=arpo_own_turns.by_length +arpo.turn_reward_kwargs.scale=2",
        "arpo.information_gain=true +arpo.information_gain_kwargs={max_seconds:5}",
        "arpo.hints=true +arpo.hint_kwargs={levels:[0.5],threshold:0.1,field:extra_info.answer}",
        "arpo.rollout=linear actor_rollout_ref.rollout.agent.default_agent_loop=tag_agent arpo.information_gain=true",
        f"{STAGED} {STEPS}",
        f"{FLAWED} +reward.custom_reward_function.reward_kwargs.flawed=arpo_own_turns.nothing",
    ],
)
def test_what_can_work_passes(overrides):
    check_parts(configuration(*overrides.split()))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("arpo.turn_rewards=mine", "arpo.turn_rewards='mine'; expected one of tools, or the dotted path of a function"),
        ("arpo.turn_rewards=arpo_own_turns.none", "arpo_own_turns"),
        ("arpo.turn_rewards=arpo_own_turns.nothing", "expected LeafTurns as its first argument"),
        ("arpo.turn_rewards=tools +arpo.turn_reward_kwargs.scale=2", "turn_reward_kwargs.scale is not a known setting"),
        (f"arpo.turn_rewards=tools {LINEAR}", "arpo.turn_rewards=tools with arpo.rollout=linear"),
        (f"arpo.information_gain=true {LINEAR}", "arpo.information_gain=True with arpo.rollout=linear"),
        ("arpo.information_gain=true +arpo.information_gain_kwargs.form=x", "kwargs.form is not a known setting"),
        ("arpo.information_gain=true +arpo.information_gain_kwargs.template=x", "expected a text with {answer} in it"),
        (
            "arpo.information_gain=true +arpo.information_gain_kwargs.max_seconds=0",
            "=0; expected a positive",
        ),
        ("arpo.hints=true +arpo.hint_kwargs.levels=[2]", r"arpo.hint_kwargs.levels=\(2,\); expected rising shares"),
        (f"arpo.hints=true {LINEAR}", "arpo.hints=True with arpo.rollout=linear"),
        ("arpo.hints=true reward.reward_model.enable=True", "expected rewards during the rollout"),
        (STAGED, "reward_kwargs.stage_one_steps is missing"),
        (FLAWED, "reward_kwargs.flawed is missing"),
        (f"{FLAWED} +reward.custom_reward_function.reward_kwargs.flawed=no_such.judge", "no_such"),
        (f"{STAGED} {STEPS} algorithm.adv_estimator=grpo {LINEAR}", "tell a reward nothing of the step"),
    ],
)
def test_what_cant_work_is_refused_in_words(overrides, message):
    with pytest.raises(ValueError, match=message):
        check_parts(configuration(*overrides.split()))


def test_a_term_of_information_gains_needs_them_to_be_measured():
    with pytest.raises(ValueError, match=r"arpo.information_gain=False; expected the gains"):
        check_parts(configuration(*TERM.split()))


def dataset(folder, *rows: dict, suffix: str = "parquet"):
    path = folder / f"data.{suffix}"
    frame = pandas.DataFrame([ROW | row for row in rows])
    frame.to_parquet(path) if suffix == "parquet" else frame.to_json(path, orient="records", lines=True)
    return path


TRUTH = {"reward_model": {"ground_truth": "2"}}
NO_ANSWER = {"reward_model": {"ground_truth": " "}}
OWN_REWARD = "reward.custom_reward_function.path=mine.py"


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_data_without_gold_answers_are_refused_where_information_gain_is_measured(tmp_path, suffix):
    path = dataset(tmp_path, TRUTH, NO_ANSWER, suffix=suffix)
    config = configuration(f"data.train_files={path}", f"data.val_files={path}", OWN_REWARD)
    check_dataset(config, "train_files")  # a reward of one's own takes any truth
    config.arpo.information_gain = True
    with pytest.raises(ValueError, match=r"row 2: field 'reward_model.ground_truth' is empty"):
        check_dataset(config, "train_files")
    check_dataset(config, "val_files")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_data_without_gold_solutions_are_refused_where_hints_are_given(tmp_path, suffix):
    row = TRUTH | {"extra_info": {"answer": {"steps": "one and one are two"}}}
    lacking = TRUTH | {"extra_info": {"answer": {"steps": " "}}}
    path = dataset(tmp_path, row, lacking, suffix=suffix)
    config = configuration(f"data.train_files={path}", f"data.val_files={path}", "arpo.hints=true")
    with pytest.raises(ValueError, match=r"extra_info\.solution.*solution"):
        check_dataset(config, "train_files")
    check_dataset(config, "val_files")
    config.arpo.hint_kwargs = {"field": "extra_info.answer.steps"}
    with pytest.raises(ValueError, match=r"row 2: field 'extra_info.answer.steps' has no text"):
        check_dataset(config, "train_files")
    dataset(tmp_path, row, row, suffix=suffix)
    check_dataset(config, "train_files")
