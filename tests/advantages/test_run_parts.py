"""What of ours a run uses: trees, our advantage and our agent loop are three questions with three answers."""

import itertools

import pytest
from omegaconf import OmegaConf

from arpo_verl.integration.settings import RunParts


def parts(estimator: str, rollout: str | None, agent: str | None = "tool_agent") -> RunParts:
    config = {"algorithm": {"adv_estimator": estimator}, "actor_rollout_ref": {"rollout": {"agent": {}}}}
    if agent is not None:
        config["actor_rollout_ref"]["rollout"]["agent"]["default_agent_loop"] = agent
    if rollout is not None:
        config["arpo"] = {"rollout": rollout}
    made = OmegaConf.create(config)
    OmegaConf.set_struct(made, True)
    return RunParts.of(made)


@pytest.mark.parametrize(
    ("estimator", "rollout", "grows_trees", "uses_our_advantage"),
    [
        ("arpo", None, True, True), ("arpo", "auto", True, True), ("arpo", "tree", True, True),
        ("arpo", "linear", False, True), ("grpo", None, False, False), ("grpo", "auto", False, False),
        ("grpo", "tree", True, False), ("grpo", "linear", False, False), ("gae", "tree", True, False),
        ("rloo", "tree", True, False), ("my_own", "tree", True, False), ("my_own", None, False, False),
    ],
)  # fmt: skip
def test_growing_trees_and_crediting_them_are_independent(estimator, rollout, grows_trees, uses_our_advantage):
    found = parts(estimator, rollout)
    assert (found.grows_trees, found.uses_our_advantage) == (grows_trees, uses_our_advantage)
    assert found.leaves_out == found.is_guarded == (grows_trees or uses_our_advantage)
    assert found.has_response_prefix == grows_trees


@pytest.mark.parametrize(("estimator", "rollout"), itertools.product(["arpo", "grpo"], [None, "tree", "linear"]))
def test_our_agent_loop_is_guarded_under_any_algorithm(estimator, rollout):
    found = parts(estimator, rollout, "tag_agent")
    assert found.uses_tag_agent and found.is_guarded and found.has_response_prefix
    assert not parts(estimator, rollout, None).uses_tag_agent


def test_a_misspelt_rollout_is_refused():
    with pytest.raises(ValueError, match=r"arpo\.rollout='trees'; expected one of auto, tree, linear"):
        parts("grpo", "trees")
