"""The group `arpo` of a configuration: defaults, what is refused and in which words, and the preset's copy of it."""

from dataclasses import FrozenInstanceError, asdict, fields
from importlib.resources import files
from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knob_documents import documents
from omegaconf import OmegaConf

from arpo_verl.config import ArpoConfig
from arpo_verl.config.arpo_config import GROUPS
from arpo_verl.named_parts import LOSSES, RULES

INFINITY, NAN = float("inf"), float("nan")
LIMITS = ("initial_rollouts", "max_requests_in_flight", "max_tool_calls_in_flight")
INTEGERS = (
    *("branch_factor", "probe_tokens", "entropy_top_k", "max_tool_calls", "infrastructure_retries", "seed"),
    "log_trees",
)
SECONDS = ("max_call_seconds", "stuck_call_seconds", "max_reward_seconds", "max_stall_seconds")
SHARES = ("max_infrastructure_fraction", "max_failed_fraction")
FLOATS = ("base_probability", "entropy_weight", "branch_threshold", *SHARES, *SECONDS)
TEXTS = ("tag_open", "tag_close", "result_template")
STRINGS = ("rule", "top_ups", "rollout", "advantage", "entropy_source", "branch_timing", "schedule", *TEXTS)
LISTS = ("exclude",)
MAPPINGS = (
    *("max_calls_per_tool", "rule_kwargs", "advantage_kwargs", "loss_kwargs", "replay_kwargs", "turn_reward_kwargs"),
    *("information_gain_kwargs", "hint_kwargs"),
)
TRUTHS = ("information_gain", "hints")
SWITCHES = ("pack_trees",)
NAMES = tuple(field.name for field in fields(ArpoConfig))


def refusal(values: dict) -> str:
    with pytest.raises(ValueError) as caught:
        ArpoConfig.from_mapping(values)
    return str(caught.value)


def test_the_fields_are_all_covered_here():
    assert sorted(NAMES) == sorted(
        LIMITS
        + INTEGERS
        + FLOATS
        + STRINGS
        + LISTS
        + MAPPINGS
        + TRUTHS
        + SWITCHES
        + ("max_leaf_seconds", "loss", "replay", "turn_rewards", "preset", "filled_preset")
    )


def test_defaults_are_the_papers():
    assert asdict(ArpoConfig()) == {
        "preset": None,
        "filled_preset": None,
        "initial_rollouts": None,
        "branch_factor": 2,
        "base_probability": 0.5,
        "entropy_weight": 0.2,
        "branch_threshold": 0.5,
        "probe_tokens": 20,
        "rule": "bernoulli",
        "rule_kwargs": {},
        "top_ups": "certain",
        "entropy_source": "topk",
        "entropy_top_k": 20,
        "branch_timing": "probe",
        "schedule": "async",
        "rollout": "auto",
        "advantage": "soft",
        "advantage_kwargs": {},
        "loss": None,
        "loss_kwargs": {},
        "replay": None,
        "replay_kwargs": {},
        "turn_rewards": None,
        "turn_reward_kwargs": {},
        "information_gain": False,
        "information_gain_kwargs": {},
        "hints": False,
        "hint_kwargs": {},
        "pack_trees": "auto",
        "max_tool_calls": 6,
        "max_calls_per_tool": {},
        "max_call_seconds": 120.0,
        "max_leaf_seconds": None,
        "stuck_call_seconds": 60.0,
        "infrastructure_retries": 1,
        "exclude": ("infrastructure",),
        "max_infrastructure_fraction": 0.5,
        "max_failed_fraction": 0.25,
        "max_reward_seconds": 300.0,
        "max_stall_seconds": 1800.0,
        "max_requests_in_flight": None,
        "max_tool_calls_in_flight": None,
        "log_trees": 0,
        "tag_open": "<{tool}>",
        "tag_close": "</{tool}>",
        "result_template": " <result>\n{result}\n</result>",
        "seed": 0,
    }


def test_an_empty_mapping_gives_the_defaults():
    assert ArpoConfig.from_mapping({}) == ArpoConfig()


def test_a_full_mapping_comes_back():
    values = {
        "preset": "mine.yaml",
        "filled_preset": "gigpo",
        "initial_rollouts": 4,
        "branch_factor": 3,
        "base_probability": 0.25,
        "entropy_weight": 0.5,
        "branch_threshold": 0.75,
        "probe_tokens": 10,
        "rule": "threshold",
        "rule_kwargs": {"depth": 3},
        "top_ups": "expected",
        "entropy_source": "surprisal",
        "entropy_top_k": 5,
        "branch_timing": "segment",
        "schedule": "lockstep",
        "rollout": "tree",
        "advantage": "hard",
        "advantage_kwargs": {"epsilon": 0.01},
        "loss": "my_losses.bold",
        "loss_kwargs": {"weight": 2, "deep": {"list": [1]}},
        "replay": "own",
        "replay_kwargs": {"success": 1.0},
        "turn_rewards": "tools",
        "turn_reward_kwargs": {"weight": 2},
        "information_gain": True,
        "information_gain_kwargs": {"max_seconds": 5},
        "hints": True,
        "hint_kwargs": {"levels": [0.5]},
        "pack_trees": "off",
        "max_tool_calls": 3,
        "max_calls_per_tool": {"search": 2},
        "max_call_seconds": 10.0,
        "max_leaf_seconds": 600,
        "stuck_call_seconds": 5.0,
        "infrastructure_retries": 0,
        "exclude": ["truncated", "infrastructure"],
        "max_infrastructure_fraction": 0.25,
        "max_failed_fraction": 0.1,
        "max_reward_seconds": 30.0,
        "max_stall_seconds": 60.0,
        "max_requests_in_flight": 64,
        "max_tool_calls_in_flight": 8,
        "log_trees": 2,
        "tag_open": "[{tool}]",
        "tag_close": "[/{tool}]",
        "result_template": "[{result}]",
        "seed": 7,
    }
    assert asdict(ArpoConfig.from_mapping(values)) == values | {"exclude": ("truncated", "infrastructure")}


def test_a_configuration_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ArpoConfig().seed = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("initial_rollouts", None),
        ("initial_rollouts", 1),
        ("branch_factor", 1),
        ("base_probability", 0.0),
        ("base_probability", 1.0),
        ("entropy_weight", 0.0),
        ("entropy_weight", 100.0),
        ("branch_threshold", 0.0),
        ("branch_threshold", 2.0),
        ("probe_tokens", 1),
        ("max_tool_calls", 0),
        ("seed", -1),
        ("rule", "threshold"),
        ("rule", "reference"),
        ("max_requests_in_flight", 1),
    ],
)
def test_values_at_the_edge_are_accepted(name, value):
    assert getattr(ArpoConfig.from_mapping({name: value}), name) == value
    assert getattr(ArpoConfig(**{name: value}), name) == value


@pytest.mark.parametrize("name", FLOATS)
def test_an_integer_is_accepted_for_a_float(name):
    value = 1
    assert getattr(ArpoConfig.from_mapping({name: value}), name) == value


OWN = "or the dotted path of a function such as my_module.my_"
ADVANTAGE = f"one of hard, soft, term_sum, {OWN}advantage"
LOSS = f"one of {', '.join(LOSSES.names)}, {OWN}loss"

RULE = f"one of {', '.join(RULES.names)}, or the dotted path of a class such as my_module.MyRule"

BAD_VALUES = [
    *((name, 0, "at least 1, or null") for name in LIMITS),
    ("initial_rollouts", -3, "at least 1, or null"),
    ("entropy_top_k", 0, "at least 1"),
    ("log_trees", -1, "at least 0"),
    ("branch_factor", 0, "at least 1 (1 never branches)"),
    ("base_probability", -0.1, "a number from 0 to 1"),
    ("base_probability", 1.1, "a number from 0 to 1"),
    ("base_probability", NAN, "a number from 0 to 1"),
    ("base_probability", INFINITY, "a number from 0 to 1"),
    ("entropy_weight", -0.1, "a number of at least 0"),
    ("entropy_weight", NAN, "a number of at least 0"),
    ("branch_threshold", -0.1, "a number of at least 0"),
    ("branch_threshold", NAN, "a number of at least 0"),
    ("probe_tokens", 0, "at least 1"),
    ("max_tool_calls", -1, "at least 0"),
    ("infrastructure_retries", -1, "at least 0"),
    *((name, value, "a positive number of seconds") for name in SECONDS for value in (0, -1.0, NAN, INFINITY)),
    *(("max_leaf_seconds", value, "a positive number of seconds, or null") for value in (0, -1.0, NAN, INFINITY)),
    *((name, value, "a number from 0 to 1") for name in SHARES for value in (-0.1, 1.1, NAN)),
    *(("rule", name, RULE) for name in ("greedy", "", "Bernoulli", "bernoulli.", "my rule.R")),
    ("top_ups", "late", "one of certain, expected"),
    ("rollout", "trees", "one of auto, tree, linear"),
    *(("advantage", name, ADVANTAGE) for name in ("both", "", "Soft", "my_module", "my.", "a:b:c", "my module.f")),
    *(("loss", name, LOSS) for name in ("ppo2", "", "vanilla", "a..b")),
    ("entropy_source", "logits", "one of topk, surprisal"),
    ("branch_timing", "later", "one of probe, segment"),
    ("schedule", "sync", "one of async, lockstep"),
    ("pack_trees", "yes", "auto, on or off"),
    ("tag_open", "<tool>", "a text with {tool} in it, once"),
    ("tag_close", "{tool}{tool}", "a text with {tool} in it, once"),
    ("tag_close", "<{tool}>", "another text than arpo.tag_open"),
    ("result_template", "", "a text with {result} in it, once"),
]


@pytest.mark.parametrize("most", [-1, 1.5, True, "2", None])
def test_a_bad_limit_of_one_tool_is_refused_with_the_tools_name(most):
    message = f"arpo.max_calls_per_tool.search={most!r}; expected a whole number of at least 0: change it"
    assert refusal({"max_calls_per_tool": {"python": 3, "search": most}}) == message


def test_an_unknown_fault_is_refused_with_the_known_ones():
    expected = "expected a list of truncated, void, infrastructure: change it"
    assert refusal({"exclude": ["slow"]}) == f"arpo.exclude=('slow',); {expected}"


@pytest.mark.parametrize(("name", "value", "expected"), BAD_VALUES)
def test_a_bad_value_is_refused_with_key_value_and_expectation(name, value, expected):
    message = f"arpo.{name}={value!r}; expected {expected}: change it"
    assert refusal({name: value}) == message
    with pytest.raises(ValueError) as caught:
        ArpoConfig(**{name: value})
    assert str(caught.value) == message


def test_an_infinite_weight_is_refused_because_it_makes_a_nan_of_an_unchanged_entropy():
    assert refusal({"entropy_weight": INFINITY}).startswith("arpo.entropy_weight=inf; expected ")


WRONG_TYPES = [
    *((name, value, "int") for name in INTEGERS for value in (True, False, "1", 1.0, [1], {}, None)),
    *((name, value, "int or null") for name in LIMITS for value in (True, False, "1", 1.0, [1], {})),
    *(("max_leaf_seconds", value, "int or float or null") for value in (True, "1", [1], {})),
    *(("loss", value, "str or null") for value in (True, 1, ["x"], {})),
    *((name, value, "int or float") for name in FLOATS for value in (True, False, "0.5", [0.5], None)),
    *((name, value, "str") for name in STRINGS for value in (True, 1, 0.5, ["soft"], None)),
    *((name, value, "bool") for name in TRUTHS for value in (1, 0, "true", [True], None)),
    *((name, value, "str or bool") for name in SWITCHES for value in (1, 0.5, ["on"], {}, None)),
    *(("turn_rewards", value, "str or null") for value in (True, 1, ["x"], {})),
    *((name, value, "list") for name in LISTS for value in (True, 1, "truncated", {}, None)),
    *((name, value, "dict") for name in MAPPINGS for value in (True, 1, "search", ["search"], None)),
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG_TYPES)
def test_a_wrong_type_is_refused_with_key_value_type_and_expectation(name, value, expected):
    got = f"arpo.{name}={value!r} is of type {type(value).__name__}"
    assert refusal({name: value}) == f"{got}; expected {expected}: change it"


@pytest.mark.parametrize(
    ("value", "meaning"), [("auto", "auto"), ("on", "on"), ("off", "off"), (True, "on"), (False, "off")]
)
def test_a_switch_is_understood_as_text_and_as_yaml_reads_it_without_quotes(value, meaning):
    assert ArpoConfig(pack_trees=value).packing == meaning


@pytest.mark.parametrize("name", ["branchfactor", "n", "Seed", "", "seed "])
def test_an_unknown_key_is_refused_with_the_known_ones(name):
    known = ", ".join(NAMES)
    assert refusal({"seed": 1, name: 1}) == f"arpo.{name} is not a known key; expected one of {known}: correct its name"


@given(
    st.dictionaries(
        st.sampled_from(NAMES) | st.text(), st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    )
)
@settings(deadline=None)
def test_any_mapping_is_taken_as_it_is_or_refused_by_key(values):
    try:
        config = ArpoConfig.from_mapping(values)
    except ValueError as error:
        assert any(str(error).startswith(f"arpo.{name}") for name in values)
    else:
        assert {name: getattr(config, name) for name in values} == values


@pytest.mark.parametrize(("leaves", "roots"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3), (8, 4), (16, 8)])
def test_half_of_the_leaves_are_roots_by_default_and_at_least_one(leaves, roots):
    assert ArpoConfig().roots(leaves) == roots


@pytest.mark.parametrize(("initial_rollouts", "leaves"), [(1, 1), (1, 16), (8, 16), (15, 16), (16, 16)])
def test_initial_rollouts_are_the_roots_if_given(initial_rollouts, leaves):
    assert ArpoConfig(initial_rollouts=initial_rollouts).roots(leaves) == initial_rollouts


@pytest.mark.parametrize(("initial_rollouts", "leaves"), [(2, 1), (17, 16)])
def test_more_initial_rollouts_than_leaves_are_refused_with_both_keys(initial_rollouts, leaves):
    with pytest.raises(ValueError) as caught:
        ArpoConfig(initial_rollouts=initial_rollouts).roots(leaves)
    assert str(caught.value) == (
        f"arpo.initial_rollouts={initial_rollouts} exceeds actor_rollout_ref.rollout.n={leaves}; "
        f"expected at most n: lower it or raise actor_rollout_ref.rollout.n"
    )


@given(st.none() | st.integers(1, 64), st.integers(1, 64))
@settings(deadline=None)
def test_roots_are_from_1_to_the_leaves_or_refused(initial_rollouts, leaves):
    config = ArpoConfig(initial_rollouts=initial_rollouts)
    if initial_rollouts is not None and initial_rollouts > leaves:
        with pytest.raises(ValueError, match=r"arpo\.initial_rollouts"):
            config.roots(leaves)
    else:
        assert 1 <= config.roots(leaves) <= leaves


def test_the_preset_has_exactly_the_fields_and_their_defaults():
    preset = OmegaConf.load(str(files("arpo_verl.config") / "arpo_trainer.yaml"))
    group = OmegaConf.to_container(preset.arpo, resolve=False)
    defaults = asdict(ArpoConfig()) | {"exclude": ["infrastructure"]}  # YAML has no tuples
    assert group == defaults
    assert list(group) == list(NAMES)
    assert list(NAMES) == [field.name for kind in GROUPS.values() for field in fields(kind)]
    assert {name: type(value) for name, value in group.items()} == {
        name: type(value) for name, value in defaults.items()
    }
    assert ArpoConfig.from_mapping(group) == ArpoConfig()


def test_preset_and_readme_say_what_the_knobs_say():
    for path, text in documents().items():
        assert path.read_text() == text, f"{path.name}: run python tests/shared/knob_documents.py"


def test_every_knob_says_what_it_does_and_every_number_and_choice_is_checked():
    hints = get_type_hints(ArpoConfig)
    for field in fields(ArpoConfig):
        assert field.metadata["meaning"]
        is_number = hints[field.name] in (int, float, int | None, float | None)
        assert field.metadata["check"] is not None or not is_number or field.name == "seed", field.name
