"""Whether a run packs, as its configuration says it, and what is refused or said before it starts."""

import logging

import pytest
import verl  # noqa: F401  registers the resolver that the preset uses
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from arpo_verl.integration.packing.mode import packing_mode
from arpo_verl.preflight.packing_check import check_packing


def ours(*overrides: str) -> DictConfig:
    with initialize_config_module("arpo_verl.config", version_base=None):
        return compose("arpo_trainer", overrides=list(overrides))


def verls(*overrides: str) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        (verls("algorithm.adv_estimator=grpo"), "off"),
        (verls("algorithm.adv_estimator=grpo", "+arpo.seed=1"), "off"),
        (verls("algorithm.adv_estimator=grpo", "+arpo.pack_trees=auto"), "auto"),
        (verls("algorithm.adv_estimator=grpo", "+arpo.pack_trees=true"), "on"),
        (verls("algorithm.adv_estimator=arpo"), "auto"),
        (verls("algorithm.adv_estimator=arpo", "+arpo.rollout=linear"), "off"),
        (verls("algorithm.adv_estimator=arpo", "+arpo.pack_trees=off"), "off"),
        (ours(), "auto"),
        (ours("arpo.pack_trees=on"), "on"),
        (ours("arpo.pack_trees=false"), "off"),
    ],
)
def test_trees_are_packed_by_default_and_other_rows_where_they_are_asked_to(config, mode):
    assert packing_mode(config) == mode


REFUSED = [
    (
        ["actor_rollout_ref.actor.strategy=megatron"],
        "actor_rollout_ref.actor.strategy=megatron is none of the engines fsdp and fsdp2",
    ),
    (
        ["critic.enable=True", "critic.strategy=veomni"],
        "critic.strategy=veomni is none of the engines fsdp and fsdp2",
    ),
    (["trainer.use_v1=False"], "trainer.use_v1=False chooses verl's older trainer"),
]


@pytest.mark.parametrize(("overrides", "reason"), REFUSED)
def test_an_engine_that_can_not_pack_ends_a_run_that_has_to_and_is_named_in_another(overrides, reason, caplog):
    with pytest.raises(ValueError) as caught:
        check_packing(ours(*overrides, "arpo.pack_trees=on"))
    assert str(caught.value) == (
        f"arpo.pack_trees=on, and trees can't be packed: {reason}; expected auto or off: change it"
    )
    with caplog.at_level(logging.WARNING):
        check_packing(ours(*overrides))
    assert [record.getMessage() for record in caplog.records] == [f"trees are not packed: {reason}"]


def test_a_run_that_computes_rows_is_left_alone(caplog):
    check_packing(ours("actor_rollout_ref.actor.strategy=megatron", "arpo.pack_trees=off"))
    check_packing(ours())
    assert caplog.records == []
