"""Before Ray starts: misspelt estimators, verl's checks of the rollout, groups of one leaf, runs that can't branch."""

import logging
from functools import cache
from pathlib import Path

import pandas
import pytest
import verl  # noqa: F401  registers the resolver that the preset uses
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from verl.utils import config as verl_config

from arpo_verl.integration.serving.server import under_verls_name
from arpo_verl.integration.serving.servers.vllm import Vllm
from arpo_verl.preflight import checks as preflight
from arpo_verl.preflight.rollout_checks import (
    check_estimator,
    check_group,
    check_verls_rollout,
    is_misspelling,
    no_branching,
)

ROLLOUT = "actor_rollout_ref.rollout"
TOOLS = f"{ROLLOUT}.multi_turn.tool_config_path"
OURS = f"{ROLLOUT}.name=arpo_vllm"
OWN_RULE = """
from arpo_verl.rules import BranchingRule, Decision


class Planned(BranchingRule):
    def __init__(self, config, roots):
        super().__init__(config)
        self.roots = roots

    def tree_state(self):
        return {"roots": self.roots}

    def new_roots(self, tree):
        return tree.rule_state["roots"] - tree.planned_roots

    def decide(self, point):
        return Decision(1, "always")
"""


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


MISSPELT = [
    *("apro", "ARPO", "Arpo", "arop", "aarpo", "arp", "aro", "ar-po", "arpo_", "arpo2", "ARPO-2", "arrpo", "arppo"),
    *("a.r.p.o", " arpo", "arpoo", "rapo", "aropo", "Ar Po", "arpor", "APRO1"),
]
OTHERS = [
    *("gigpo", "dapo", "gspo", "treegrpo", "tree_grpo", "aepo", "appo", "cispo", "vapo", "drgrpo", "dr_grpo", "ppo"),
    *(
        "papo",
        "sapo",
        "hapo",
        "grpo2",
        "sarpo",
        "arpo_hard",
        "my_arpo",
        "ARPOwn",
        "apo",
        "rpo",
        "paro",
        "my_own_method",
    ),
    *("quantile", "sft", "opo2", "spo", "a", "", "5", "αρπο"),
]


def named(name: str) -> DictConfig:
    config = configuration()
    config.algorithm.adv_estimator = name
    return config


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelling_of_our_estimator_is_refused_with_the_right_name(name):
    with pytest.raises(ValueError) as refused:
        check_estimator(named(name))
    assert str(refused.value).startswith(f"algorithm.adv_estimator={name!r} is not known to verl; expected one of")
    assert str(refused.value).endswith(": did you mean arpo?")


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_other_peoples_methods_are_warned_of_and_left_to_verl(name):
    assert not is_misspelling(name, "arpo")
    said = check_estimator(named(name))
    assert said.startswith(f"algorithm.adv_estimator={name!r} is not known to verl")
    assert "actor_rollout_ref.model.external_lib" in said


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *((name, "grpo") for name in ("gpro", "GRPO", "grppo")),
        *(("GAE", "gae"), ("Reinforce Plus-Plus", "reinforce_plus_plus")),
        *(("remaxx", "remax"), ("rlooo", "rloo")),
    ],
)
def test_the_warning_of_a_name_near_verls_own_names_it(name, meant):
    assert check_estimator(named(name)).endswith(f"Did you mean {meant}?")


@pytest.mark.parametrize("name", ["arpo", "grpo", "gae", "reinforce_plus_plus", "rloo", "remax", "opo", "gpg"])
def test_known_estimators_pass_without_a_word(name):
    assert check_estimator(named(name)) is None


def test_nothing_is_said_where_a_library_may_register_the_name():
    config = configuration("+actor_rollout_ref.model.external_lib=my_library")
    config.algorithm.adv_estimator = "apro"
    assert check_estimator(config) is None


def test_another_name_passes_the_checks_before_ray_with_a_warning(caplog):
    config = configuration("algorithm.adv_estimator=gigpo", name="ppo_trainer")
    with caplog.at_level(logging.WARNING):
        preflight.check_before_ray(config)
    assert "algorithm.adv_estimator='gigpo' is not known to verl" in caplog.text


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


def test_verls_validation_sees_verls_name(monkeypatch, tmp_path):
    seen = []
    file = rows_file(tmp_path, ["4"])
    config = configuration(OURS, "algorithm.adv_estimator=grpo", f"data.train_files={file}", f"data.val_files={file}")
    monkeypatch.setattr(verl_config.validate_config, "__wrapped__", lambda config, *rest, **named: seen.append(config))
    verl_config.validate_config(config, use_reference_policy=False, use_critic=False)
    verl_config.validate_config(config=config, use_reference_policy=False, use_critic=False)
    assert [config.actor_rollout_ref.rollout.name for config in seen] == ["vllm", "vllm"]


def test_verls_validation_is_told_of_the_estimator_that_a_preset_fills_in(monkeypatch, tmp_path):
    seen = {}
    file = rows_file(tmp_path, ["4"])
    stock = ["actor_rollout_ref.rollout.n=4", f"data.train_files={file}", f"data.val_files={file}"]
    config = configuration(*stock, "+arpo.preset=loop", name="ppo_trainer")
    monkeypatch.setattr(verl_config.validate_config, "__wrapped__", lambda config, **named: seen.update(named))
    verl_config.validate_config(config=config, use_reference_policy=False, use_critic=True)
    assert (config.algorithm.adv_estimator, seen["use_critic"]) == ("rloo", False)


def rows_file(folder: Path, truths: list) -> Path:
    rows = [
        {"data_source": "q", "prompt": [{"role": "user", "content": "?"}], "reward_model": {"ground_truth": truth}}
        for truth in truths
    ]
    pandas.DataFrame(rows).to_parquet(folder / f"{len(truths)}.parquet")
    return folder / f"{len(truths)}.parquet"


TAG_AGENT = f"{ROLLOUT}.agent.default_agent_loop=tag_agent"


@pytest.mark.parametrize(
    ("estimator", "kind", "bad", "problem"),
    [
        ("grpo", "train", None, "is null"),
        ("grpo", "val", float("nan"), "is null"),
        ("gae", "train", "", "is empty"),
        ("gigpo", "val", "  ", "is empty"),
    ],
)
def test_every_row_of_another_algorithms_tag_agent_run_is_read_before_ray(tmp_path, estimator, kind, bad, problem):
    good, other = rows_file(tmp_path, ["4"] * 3), rows_file(tmp_path, [*["4"] * 5, bad, "4"])
    files = {"train": good, "val": good, kind: other}
    config = configuration(
        TAG_AGENT,
        f"algorithm.adv_estimator={estimator}",
        *(f"data.{name}_files={file}" for name, file in files.items()),
    )
    with pytest.raises(ValueError, match=rf"data.{kind}_files=.*row 6.*{problem}"):
        verl_config.validate_config(config=config, use_reference_policy=False, use_critic=False)


def test_a_tag_agent_run_without_its_files_ends_before_ray(tmp_path):
    config = configuration(TAG_AGENT, "algorithm.adv_estimator=grpo", f"data.train_files={tmp_path / 'no.parquet'}")
    with pytest.raises(ValueError, match=r"no\.parquet' is not a file"):
        verl_config.validate_config(config=config, use_reference_policy=False, use_critic=False)


def test_the_rows_of_a_run_that_is_not_ours_are_left_to_verl(tmp_path):
    config = configuration("algorithm.adv_estimator=grpo", name="ppo_trainer")
    preflight.check_before_ray(config)


def test_tables_of_trees_are_said_to_be_none_of_a_run_whose_rollout_is_verls_own(caplog):
    config = configuration("algorithm.adv_estimator=grpo", "+arpo.log_trees=2", name="ppo_trainer")
    with caplog.at_level(logging.WARNING):
        preflight.check_before_ray(config)
    assert "arpo.log_trees=2 logs nothing: this run's rollout is verl's own" in caplog.text


DELTA = f"{ROLLOUT}.checkpoint_engine.backend=delta_sharded"


@pytest.mark.parametrize("overrides", [[DELTA], [DELTA, OURS], [DELTA, OURS, "arpo.entropy_source=surprisal"]])
def test_a_weight_transfer_that_our_servers_do_not_have_is_refused(overrides):
    with pytest.raises(ValueError, match=r"delta_sharded with arpo\.entropy_source='topk'; expected 'surprisal'"):
        Vllm().check(configuration(*overrides))


@pytest.mark.parametrize(
    "overrides", [[], [DELTA, "arpo.entropy_source=surprisal"], [f"{ROLLOUT}.checkpoint_engine.backend=nccl"]]
)
def test_other_weight_transfers_pass(overrides):
    Vllm().check(configuration(*overrides))


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


@pytest.mark.parametrize(("roots", "reason"), [(1, None), (20, "rollout.n=16: every leaf starts from the prompt")])
def test_a_rule_of_ones_own_is_asked_about_a_tree_with_its_own_state(roots, reason, tmp_path, monkeypatch):
    (tmp_path / "arpo_own_rule.py").write_text(OWN_RULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = configuration("arpo.rule=arpo_own_rule.Planned", f"+arpo.rule_kwargs.roots={roots}")
    said = no_branching(config)
    assert said is None if reason is None else reason in said


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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["arpo.rule=top_k", "arpo.rule_kwargs={score: entropie}"],
            r"score='entropie'; expected one of constant, cost",
        ),
        (["arpo.rule_kwargs={gate: failed}"], r"gate='failed'; expected always or accuracy with this rule"),
        (["arpo.rule=sample", "arpo.rule_kwargs={rounds: 2, forks: 8}"], r"forks=8; expected at most n=16 .*not 17"),
        (
            ["arpo.rule=sample", "arpo.rule_kwargs={gate: failed}", "reward.reward_model.enable=True"],
            r"enable_resource_pool=False with a branching rule that looks at rewards .*enable_resource_pool=True",
        ),
    ],
)
def test_a_rule_that_can_not_do_what_it_is_set_to_is_refused_before_ray(overrides, message):
    with pytest.raises(ValueError, match=message):
        preflight.check_settings(configuration(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["arpo.rule=sample", "arpo.rule_kwargs={gate: failed}"],
        ["arpo.rule=top_k", "reward.reward_model.enable=True"],
        [
            "arpo.rule=sample",
            "arpo.rule_kwargs={gate: failed}",
            "reward.reward_model.enable=True",
            "reward.reward_model.enable_resource_pool=True",
        ],
        ["arpo.rule=top_k", "arpo.rule_kwargs={rounds: 2, forks: 6, penalty: siblings}", f"{ROLLOUT}.n=22"],
    ],
)
def test_a_rule_in_rounds_passes_with_the_rewards_and_the_leaves_that_it_needs(overrides):
    config = configuration(*overrides)
    preflight.check_settings(config)
    assert no_branching(config) is None


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
