"""A preset fills in what the user has not set, in whatever way the user sets things."""

import logging

import pytest
import yaml
from omegaconf import OmegaConf

from arpo_verl.integration.settings import arpo_config, register_resolver
from arpo_verl.preflight.compose import PRESET, compose_config
from arpo_verl.presets import Preset, load_preset
from arpo_verl.presets.fill import VERLS_DEFAULTS, fill_preset

VERL = ("pkg://verl.trainer.config", "ppo_trainer")
OWN = {
    "title": "Mine",
    "summary": "for this test",
    "settings": {
        "algorithm.adv_estimator": "arpo",
        "actor_rollout_ref.rollout.n": 6,
        "arpo.initial_rollouts": 2,
        "arpo.rule": "threshold",
        "arpo.advantage": "term_sum",
        "arpo.advantage_kwargs": {"terms": [{"unit": "leaf"}], "epsilon": 0.5},
    },
}


@pytest.fixture(autouse=True)
def resolver():
    register_resolver()


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(OWN))
    return str(file)


def composed(where, *overrides):
    return compose_config(*where, list(overrides))


@pytest.mark.parametrize(("where", "plus"), [(PRESET, ""), (VERL, "+")], ids=["arpo_trainer", "verl"])
def test_a_preset_fills_in_ours_and_verls_keys(own, where, plus):
    config = composed(where, f"{plus}arpo.preset={own}")
    arpo = arpo_config(config)
    assert (arpo.initial_rollouts, arpo.rule, arpo.advantage) == (2, "threshold", "term_sum")
    assert arpo.advantage_kwargs == {"terms": [{"unit": "leaf"}], "epsilon": 0.5}
    assert config.actor_rollout_ref.rollout.n == 6
    assert config.algorithm.adv_estimator == "arpo"
    assert (arpo.preset, arpo.filled_preset) == (None, own)


def test_an_override_wins_even_where_it_sets_the_default(own):
    config = composed(PRESET, f"arpo.preset={own}", "arpo.rule=bernoulli", "actor_rollout_ref.rollout.n=16")
    assert (config.arpo.rule, config.actor_rollout_ref.rollout.n) == ("bernoulli", 16)
    assert config.arpo.initial_rollouts == 2


def test_an_override_of_a_whole_group_names_what_is_in_it():
    config = composed(VERL, "+arpo={preset: tree_grpo, rule: bernoulli}")
    assert (config.arpo.rule, config.arpo.advantage) == ("bernoulli", "term_sum")


def test_settings_belong_to_the_part_of_their_name(tmp_path):
    file = tmp_path / "rewarded.yaml"
    settings = {"arpo.turn_rewards": "my.module.function", "arpo.turn_reward_kwargs": {"scale": 2}}
    file.write_text(yaml.safe_dump({**OWN, "settings": settings}))
    arpo = arpo_config(composed(PRESET, f"arpo.preset={file}", "arpo.turn_rewards=tools"))
    assert (arpo.turn_rewards, arpo.turn_reward_kwargs) == ("tools", {})


@pytest.mark.parametrize("settings", [{"arpo": {"rule": "top_k"}}, {"actor_rollout_ref.actor": {"clip_ratio": 1}}, [1]])
def test_settings_of_whole_groups_are_refused(tmp_path, settings):
    file = tmp_path / "groups.yaml"
    file.write_text(yaml.safe_dump({**OWN, "settings": settings}))
    with pytest.raises(ValueError, match="has settings of whole groups"):
        composed(PRESET, f"arpo.preset={file}")


def test_a_value_of_the_users_own_configuration_wins(own):
    config = OmegaConf.merge(composed(PRESET), {"arpo": {"preset": own, "initial_rollouts": 3}})
    fill_preset(config)
    assert (config.arpo.initial_rollouts, config.arpo.rule) == (3, "threshold")


def test_settings_of_the_same_part_are_merged_and_those_of_another_are_left_out(own):
    preset = f"arpo.preset={own}"
    same = arpo_config(composed(PRESET, preset, "+arpo.advantage_kwargs.epsilon=0.25"))
    assert same.advantage_kwargs == {"terms": [{"unit": "leaf"}], "epsilon": 0.25}
    named = arpo_config(composed(PRESET, preset, "arpo.advantage=term_sum"))
    assert named.advantage_kwargs == OWN["settings"]["arpo.advantage_kwargs"]
    another = arpo_config(composed(PRESET, preset, "arpo.advantage=hard", "+arpo.advantage_kwargs.epsilon=0.25"))
    assert (another.advantage, another.advantage_kwargs) == ("hard", {"epsilon": 0.25})


def test_a_second_time_changes_nothing(own):
    config = composed(PRESET, f"arpo.preset={own}", "arpo.rule=bernoulli")
    before = OmegaConf.to_container(config)
    fill_preset(config)
    assert OmegaConf.to_container(config) == before


def test_what_is_set_is_logged_with_the_papers_number(caplog):
    composed(PRESET, "arpo.preset=gigpo", "arpo.advantage=hard")
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "arpo.preset=gigpo is GiGPO (arXiv 2505.10978)" in record.message
    assert "as you set them: arpo.advantage=hard, arpo.advantage_kwargs={}" in record.message


def test_another_estimator_is_a_conflict_and_the_one_flag_is_none():
    composed(PRESET, "arpo.preset=gigpo", "algorithm.adv_estimator=arpo")
    composed(VERL, "+arpo.preset=gigpo", "algorithm.adv_estimator=arpo")
    assert composed(VERL, "+arpo.preset=loop").algorithm.adv_estimator == "rloo"
    with pytest.raises(ValueError, match=r"algorithm.adv_estimator=grpo with arpo.preset=gigpo; expected arpo"):
        composed(PRESET, "arpo.preset=gigpo", "algorithm.adv_estimator=grpo")
    with pytest.raises(ValueError, match=r"algorithm.adv_estimator=arpo with arpo.preset=loop; expected rloo"):
        composed(PRESET, "arpo.preset=loop", "algorithm.adv_estimator=arpo")


def test_one_that_cannot_be_run_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"arpo.preset=remax can't be run: verl 0.9.1's V1 .*; expected another"):
        composed(PRESET, "arpo.preset=remax")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"arpo.preset='gippo'; expected one of .*gigpo.*, or the path of a file"):
        composed(PRESET, "arpo.preset=gippo")


@pytest.mark.parametrize(
    "text", ["", "- 1", "title: x", "title: x\nsummary: y\ncolour: red", "{", "\x00", "title: [x\nsummary: y"]
)
def test_a_file_that_is_no_preset_is_refused(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"bad.yaml.*; expected"):
        composed(PRESET, f"arpo.preset={file}")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="can't be read"):
        composed(PRESET, f"arpo.preset={tmp_path}/none.yaml")


def test_a_preset_sets_something_or_says_why_it_cannot():
    with pytest.raises(ValueError, match="expected one of them"):
        Preset("name", "title", "summary")
    with pytest.raises(ValueError, match="expected one of them"):
        Preset("name", "title", "summary", settings={"arpo.rule": "linear"}, unavailable="no")


def test_a_configuration_whose_preset_was_not_filled_in_is_refused():
    with pytest.raises(ValueError, match=r"arpo.preset=gigpo has not been filled in; expected .*fill_preset"):
        arpo_config(OmegaConf.create({"arpo": {"preset": "gigpo"}}))


def test_the_known_defaults_are_verls():
    config = composed(VERL)
    assert all(OmegaConf.select(config, key) in defaults for key, defaults in VERLS_DEFAULTS.items())
    assert load_preset("grpo").settings
