"""The trainer's check that no leaf and no prompt is lost, on records alone."""

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import get_trainer_cls

from arpo_verl.integration.trainer import MANAGER, choose_manager
from arpo_verl.rollout.metrics import LeafRecord


def tree(size: int, asked: int) -> list[LeafRecord]:
    return [
        LeafRecord(asked, number, None, "0", None, False, "completed", False, False, [], [], None, [], None, 0, 0)
        for number in range(size)
    ]


def expect_all_leaves(trees: dict[str, list[LeafRecord]], prompts: int = 2) -> None:
    trainer = object.__new__(get_trainer_cls("sync"))
    trainer.config = OmegaConf.create({"data": {"train_batch_size": prompts}})
    trainer.parameter_sync_step = 1
    trainer._expect_all_leaves(trees)


def test_whole_trees_pass_also_where_a_prompt_asked_for_another_size():
    expect_all_leaves({"a": tree(4, asked=4), "b": tree(6, asked=6)})


def test_a_missing_leaf_is_an_error_that_names_the_prompt():
    with pytest.raises(RuntimeError, match=r"leaves missing in \['b: 3 of 4'\]"):
        expect_all_leaves({"a": tree(4, asked=4), "b": tree(3, asked=4)})


def test_a_prompt_without_any_leaf_is_an_error():
    with pytest.raises(RuntimeError, match="got 1 of 2 prompts"):
        expect_all_leaves({"a": tree(4, asked=4)})


@pytest.mark.parametrize("agent", [{}, {"agent_loop_manager_class": None}, {"agent_loop_manager_class": MANAGER}])
def test_our_manager_is_chosen(agent):
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"agent": agent}}})
    OmegaConf.set_struct(config, True)
    choose_manager(config)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == MANAGER


def test_another_manager_is_refused():
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"agent": {"agent_loop_manager_class": "my.Manager"}}}})
    with pytest.raises(ValueError, match=r"agent_loop_manager_class='my\.Manager'; expected it unset"):
        choose_manager(config)
