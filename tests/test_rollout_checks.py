"""Before Ray starts: misspelt estimators, verl's checks of the rollout, groups of one leaf, runs that can't branch."""

import logging
from functools import cache

import pytest
import verl  # noqa: F401  registers the resolver that the preset uses
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from verl.utils import config as verl_config

from arpo_verl.integration import preflight
from arpo_verl.integration.rollout_checks import (
    check_estimator,
    check_group,
    check_verls_rollout,
    check_weight_transfer,
    near_name,
    no_branching,
    under_verls_name,
)

ROLLOUT = "actor_rollout_ref.rollout"
TOOLS = f"{ROLLOUT}.multi_turn.tool_config_path"
OURS = f"{ROLLOUT}.name=arpo_vllm"


@cache
def composed(name: str) -> DictConfig:
    module = "arpo_verl.config" if name == "arpo_trainer" else "verl.trainer.config"
    with initialize_config_module(module, version_base=None):
        return compose(name)


def configuration(*overrides: str, name: str = "arpo_trainer") -> DictConfig:
    """Return a configuration with overrides; composing it anew for each would take a second."""
    config = composed(name).copy()
    OmegaConf.set_struct(config, False)
    config.merge_with_dotlist([override.removeprefix("+") for override in overrides])
    OmegaConf.set_struct(config, True)
    return config


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        *(
            (name, "arpo")
            for name in ("apro", "ARPO", "Arpo", "arop", "aarpo", "arp", "ar-po", "arpo_", "arpo2", "arrpo")
        ),
        *((name, "arpo") for name in ("a.r.p.o", " arpo", "arpoo", "rapo", "aropo")),
        *((name, "grpo") for name in ("gpro", "GRPO", "grppo", "gropo")),
        ("GAE", "gae"),
        ("reinforce++", "reinforce_plus_plus"),
        ("reinforce-plus-plus", "reinforce_plus_plus"),
        ("remaxx", "remax"),
        ("rlooo", "rloo"),
    ],
)
def test_a_misspelt_estimator_is_refused_with_the_near_name(misspelt, meant):
    config = configuration()
    config.algorithm.adv_estimator = misspelt
    with pytest.raises(ValueError) as refused:
        check_estimator(config)
    assert str(refused.value).startswith(f"algorithm.adv_estimator={misspelt!r} is not known to verl; expected one of")
    assert str(refused.value).endswith(f": did you mean {meant}?")


@pytest.mark.parametrize("name", ["arpo", "grpo", "gae", "reinforce_plus_plus", "my_own_method", "sft", "quantile"])
def test_known_estimators_and_names_that_resemble_none_pass(name):
    config = configuration()
    config.algorithm.adv_estimator = name
    check_estimator(config)


def test_case_and_separators_do_not_make_a_name_less_near():
    assert near_name("Reinforce Plus-Plus", ["arpo", "reinforce_plus_plus"]) == "reinforce_plus_plus"
    assert near_name("", ["arpo"]) is None


@pytest.mark.parametrize("name", ["apro", "ARPO"])
def test_a_misspelt_estimator_ends_verls_validation_of_a_stock_configuration(name):
    config = configuration(f"algorithm.adv_estimator={name}", name="ppo_trainer")
    with pytest.raises(ValueError, match="did you mean arpo"):
        verl_config.validate_config(config, use_reference_policy=False, use_critic=False)


VERL_REFUSES = [
    ([f"{ROLLOUT}.pipeline_model_parallel_size=2"], "pipeline_model_parallel_size > 1"),
    ([f"{ROLLOUT}.pipeline_model_parallel_size=8"], "pipeline_model_parallel_size > 1"),
    ([f"{ROLLOUT}.expert_parallel_size=3"], "expert_parallel_size must be equal to tensor_model_parallel_size"),
    ([f"+{ROLLOUT}.moe_tensor_parallel_size=2"], "moe_tensor_parallel_size is only supported for trtllm"),
    ([f"{ROLLOUT}.mode=sync"], "Rollout mode 'sync' has been removed"),
    ([f"+{ROLLOUT}.no_such_key=1"], "no_such_key"),
]


@pytest.mark.parametrize("name", ["vllm", "arpo_vllm"])
@pytest.mark.parametrize(("overrides", "message"), VERL_REFUSES)
def test_verls_own_checks_hold_under_either_name_of_the_rollout(overrides, message, name):
    with pytest.raises(ValueError, match=f"verl refuses actor_rollout_ref.rollout: .*{message}"):
        check_verls_rollout(configuration(f"{ROLLOUT}.name={name}", *overrides))


def test_verls_checks_pass_for_the_preset_and_leave_the_configuration_as_it_is():
    config = configuration(OURS)
    before = config.copy()
    check_verls_rollout(config)
    assert config == before
    assert under_verls_name(config).actor_rollout_ref.rollout.name == "vllm"
    assert config.actor_rollout_ref.rollout.name == "arpo_vllm"


def test_verls_validation_sees_verls_name(monkeypatch):
    seen = []
    config = configuration(OURS, "algorithm.adv_estimator=grpo")
    monkeypatch.setattr(verl_config.validate_config, "__wrapped__", lambda config, *rest, **named: seen.append(config))
    verl_config.validate_config(config, use_reference_policy=False, use_critic=False)
    verl_config.validate_config(config=config, use_reference_policy=False, use_critic=False)
    assert [config.actor_rollout_ref.rollout.name for config in seen] == ["vllm", "vllm"]


DELTA = f"{ROLLOUT}.checkpoint_engine.backend=delta_sharded"


@pytest.mark.parametrize("overrides", [[DELTA], [DELTA, OURS], [DELTA, OURS, "arpo.entropy_source=surprisal"]])
def test_a_weight_transfer_that_our_servers_do_not_have_is_refused(overrides):
    with pytest.raises(ValueError, match=r"delta_sharded with arpo\.entropy_source='topk'; expected 'surprisal'"):
        check_weight_transfer(configuration(*overrides))


@pytest.mark.parametrize(
    "overrides", [[], [DELTA, "arpo.entropy_source=surprisal"], [f"{ROLLOUT}.checkpoint_engine.backend=nccl"]]
)
def test_other_weight_transfers_pass(overrides):
    check_weight_transfer(configuration(*overrides))


@pytest.mark.parametrize("leaves", ["1", "0", "-4", "null", "2.5", "true", "many"])
def test_a_group_of_one_leaf_or_of_none_is_refused(leaves):
    with pytest.raises(ValueError, match=r"rollout\.n=.*; expected an integer of at least 2"):
        check_group(configuration(f"{ROLLOUT}.n={leaves}"))


def test_verls_default_of_one_leaf_is_refused_where_arpo_is_the_flag_of_a_stock_command():
    config = configuration("algorithm.adv_estimator=arpo", name="ppo_trainer")
    assert config.actor_rollout_ref.rollout.n == 1
    with pytest.raises(ValueError, match=r"rollout\.n=1; expected an integer of at least 2"):
        preflight.check_values(config)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["arpo.initial_rollouts=16"], "arpo.initial_rollouts=16: every leaf starts from the prompt"),
        ([f"{ROLLOUT}.n=2", "arpo.initial_rollouts=2"], "arpo.initial_rollouts=2"),
        (["arpo.branch_factor=1"], "arpo.branch_factor=1"),
        (["arpo.max_tool_calls=0"], "arpo.max_tool_calls=0"),
        ([f"{TOOLS}=null"], "no tool in"),
        (["arpo.base_probability=0", "arpo.entropy_weight=0"], "base_probability=0 with entropy_weight=0"),
        (["arpo.base_probability=0", "arpo.entropy_weight=0", "arpo.rule=reference"], "the probability 0"),
        (["arpo.rule=threshold", "arpo.entropy_weight=0"], "not above branch_threshold=0.5"),
        (["arpo.rule=threshold", "arpo.entropy_weight=0", "arpo.branch_threshold=1"], "not above branch_threshold=1"),
    ],
)
def test_settings_that_can_not_branch_are_named(overrides, reason):
    assert reason in no_branching(configuration(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [f"{ROLLOUT}.n=2"],
        ["arpo.initial_rollouts=15"],
        ["arpo.max_tool_calls=1"],
        ["arpo.base_probability=0"],
        ["arpo.entropy_weight=0"],
        ["arpo.rule=threshold"],
        ["arpo.rule=threshold", "arpo.entropy_weight=0", "arpo.branch_threshold=0.4"],
        [f"{TOOLS}=null", f"{ROLLOUT}.multi_turn.function_tool_path=tools.py"],
    ],
)
def test_settings_that_can_branch_give_no_reason(overrides):
    assert no_branching(configuration(*overrides)) is None


def test_a_run_that_can_not_branch_says_so_before_ray(monkeypatch, caplog):
    for name in ("check_versions", "check_tools", "check_datasets", "check_shared_memory", "check_port"):
        monkeypatch.setattr(preflight, name, lambda config: None)
    with caplog.at_level(logging.WARNING, "arpo_verl"):
        preflight.check(configuration("arpo.branch_factor=1"))
        preflight.check(configuration())
    assert [record.message for record in caplog.records] == [
        "this run of algorithm.adv_estimator=arpo never branches, as GRPO: arpo.branch_factor=1: no path leaves a fork "
        "point but the parent's own"
    ]
