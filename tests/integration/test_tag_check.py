"""Tags that are special tokens never reach the reward: such a run is refused before it starts."""

import copy
import functools
import logging

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from tokenizers import AddedToken

from arpo_verl.evaluation.run.verl_agent import Rollouts
from arpo_verl.preflight import checks as preflight
from arpo_verl.preflight.tag_check import check_tags, check_tags_of_run, function_names
from arpo_verl.reward import compute_score
from arpo_verl.tiny_world.model import make_model, make_tokenizer, save

FORMAT = "actor_rollout_ref.rollout.multi_turn.format"
FUNCTION_TOOL = '''
from verl.tools.function_tool import function_tool

@function_tool
def {name}(text: str) -> str:
    """Do something.

    Args:
        text: what.
    """
    return text
'''


@functools.cache
def composed(*overrides: str) -> DictConfig:
    """Half a second of work."""
    with initialize_config_module("arpo_verl.config", version_base=None):
        return compose("arpo_trainer", overrides=list(overrides))


def configuration(*overrides: str) -> DictConfig:
    return copy.deepcopy(composed(*overrides))


def tokenizer(*special: str, removed: tuple[str, ...] = ()):
    """The tiny world's, with some tokens special."""
    made = make_tokenizer()
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return made


def test_the_fault_is_there():
    response = r"<think>a</think><answer>\boxed{2}</answer>"
    made = tokenizer("<answer>", "</answer>")
    seen = made.decode(made.encode(response), skip_special_tokens=True)
    assert compute_score("math", response, "2")["score"] == 1.0
    assert compute_score("math", seen, "2")["score"] == -1.0


REFUSED = [
    (["<answer>", "</answer>"], []),
    (["<answer>"], []),
    (["</answer>"], [f"{FORMAT}=hermes"]),
    (["<python>", "</python>"], []),
    (["<search>"], []),
    (["</result>"], []),
    (["<think>"], []),
    (["<think>", "</think>"], ["reward.custom_reward_function.name=compute_reference_score"]),
    (["[search]"], ["arpo.tag_open='[{tool}]'", "arpo.tag_close='[/{tool}]'"]),
    (["[R]<result>"], ["arpo.result_template='[R]<result>{result}\n</result>'"]),
    (["<think>", "</think>", "<answer>", "</answer>", "<result>", "</result>"], []),
]


@pytest.mark.parametrize(("special", "overrides"), REFUSED)
def test_a_tag_that_is_a_special_token_is_refused_by_name(special, overrides):
    with pytest.raises(
        ValueError, match=r"are special tokens of the tokenizer of .*; expected ordinary tokens"
    ) as caught:
        check_tags(configuration(*overrides), tokenizer(*special))
    for tag in special:
        assert tag in str(caught.value)


ACCEPTED = [
    ([], []),
    (["<browse>", "<tool_call>", "<|x|>"], []),
    (["<think>", "</think>"], []),  # the reward does without both
    (["<search>", "</search>", "<result>", "</result>"], [f"{FORMAT}=hermes"]),
    (["<search>", "</search>"], ["arpo.tag_open='[{tool}]'", "arpo.tag_close='[/{tool}]'"]),
]


@pytest.mark.parametrize(("special", "overrides"), ACCEPTED)
def test_a_special_token_that_nobody_reads_is_no_fault(special, overrides):
    check_tags(configuration(*overrides), tokenizer(*special))


def test_another_reward_is_warned_of(caplog):
    config = configuration("reward.custom_reward_function.path=/mine.py")
    with caplog.at_level(logging.WARNING):
        check_tags(config, tokenizer("<search>", "<answer>"))
    assert "<search> are special tokens" in caplog.text  # that reward may have no <answer>
    assert "The reward '/mine.py' must do without them" in caplog.text


def test_the_tags_of_function_tools_and_of_a_lists_own_schemas_are_read(tmp_path):
    functions, tools = tmp_path / "functions.py", tmp_path / "tools.yaml"
    functions.write_text(FUNCTION_TOOL.format(name="tag_check_tool"))
    tools.write_text(
        "tools:\n"
        "- {class_name: arpo_verl.integration.rollout.tools.SearchTool, config: {type: native, name: look}}\n"
        "- {class_name: my.Tool, config: {type: native}, tool_schema: {type: function, function: {name: mine}}}\n"
    )
    overrides = [
        f"actor_rollout_ref.rollout.multi_turn.function_tool_path={functions}",
        f"actor_rollout_ref.rollout.multi_turn.tool_config_path={tools}",
    ]
    for name in ("tag_check_tool", "look", "mine"):
        with pytest.raises(ValueError, match=f"<{name}>, </{name}> are special tokens"):
            check_tags(configuration(*overrides), tokenizer(f"<{name}>", f"</{name}>"))


def test_the_names_of_function_tools_are_read_without_running_their_file():
    source = """
raise SystemExit
@function_tool
def one(): ...
@verl.tools.function_tool.function_tool("two")
async def renamed(): ...
@function_tool(schema={})
def three(): ...
@other
def four(): ...
"""
    assert list(function_names(source)) == ["one", "two", "three"]


def test_a_run_is_refused_before_it_starts_and_so_is_an_evaluation(tmp_path):
    model = tmp_path / "model"
    tokenizer("<answer>", "</answer>").save_pretrained(model)
    config = configuration(f"actor_rollout_ref.model.path={model}")
    assert check_tags_of_run.__name__ in preflight.check.__code__.co_names
    with pytest.raises(ValueError, match="<answer>, </answer> are special tokens of the tokenizer of"):
        check_tags_of_run(config)
    save(make_model(tokenizer("<answer>", "</answer>"), seed=0), tokenizer("<answer>", "</answer>"), model)
    evaluated = configuration(
        f"actor_rollout_ref.model.path={model}", "actor_rollout_ref.rollout.multi_turn.tool_config_path=null"
    )
    with pytest.raises(ValueError, match="<answer>, </answer> are special tokens"):
        Rollouts(evaluated, [])


def test_a_tokenizer_that_is_not_here_is_left_to_verl(tmp_path):
    check_tags_of_run(configuration(f"actor_rollout_ref.model.path={tmp_path / 'no'}"))


def test_a_grpo_run_with_the_same_rollout_is_checked_too(tmp_path):
    import verl.utils.config as verl_config

    tokenizer("<answer>", "</answer>").save_pretrained(tmp_path)
    config = configuration(f"actor_rollout_ref.model.path={tmp_path}", "algorithm.adv_estimator=grpo")
    with pytest.raises(ValueError, match="<answer>, </answer> are special tokens"):
        verl_config.validate_config(config=config, use_reference_policy=False, use_critic=False)
