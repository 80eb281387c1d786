"""docs/rewards.md, followed: its overrides are accepted by the checks before a run, and its functions do their work."""

import asyncio
import re
import sys
from pathlib import Path

import pytest
import verl  # noqa: F401  registers the resolver that the preset uses
from hydra import compose, initialize_config_module

from arpo_verl.integration.rollout.turn_rewards import TurnRewardFunction
from arpo_verl.integration.settings import arpo_config
from arpo_verl.preflight.checks import check_parts
from arpo_verl.reward import compute_flawed_score
from arpo_verl.turn_rewards import LeafTurns, Turn, TurnCall

DOCUMENT = Path(__file__).parent.parent / "docs" / "rewards.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
OVERRIDES = [content.split() for language, content in BLOCKS if language == "text"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for language, content in BLOCKS:
        if language == "python":
            (tmp_path / re.match(r"# (\w+\.py)\n", content)[1]).write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for module in ("my_turns", "my_judge"):
        sys.modules.pop(module, None)


def configuration(*overrides: str):
    with initialize_config_module("arpo_verl.config", version_base=None):
        return compose("arpo_trainer", overrides=["platform=cpu", *overrides])


@pytest.mark.parametrize("overrides", OVERRIDES, ids=[words[0] for words in OVERRIDES])
def test_what_it_asks_for_passes_the_checks(overrides):
    check_parts(configuration(*overrides))


def test_its_function_of_turn_rewards_rewards_turns():
    [overrides] = [words for words in OVERRIDES if words[0] == "arpo.turn_rewards=my_turns.kept_short"]
    function = TurnRewardFunction.of(arpo_config(configuration(*overrides)))
    works, fails = (TurnCall("search", "x", status, "y", None, 0.1, 0) for status in ("ok", "model_error"))
    turns = (Turn("short", (works,)), Turn("long" * 100, (works,)), Turn("short", (works, fails)), Turn("answer"))
    leaf = LeafTurns(turns, "completed", "48", 1, {})
    assert asyncio.run(function.of_leaf(leaf)) == ([1.0, 0.0, 0.0, None], None)


def test_its_judge_tells_a_guess():
    given = {"extra_info": {"ability": "qa"}, "flawed": "my_judge.is_flawed"}
    responses = (f"{text} <answer>\\boxed{{48}}</answer>" for text in ("I guess", "I know"))
    assert [compute_flawed_score("qa", one, "48", **given)["score"] for one in responses] == [0.0, 1.0]


def test_it_names_every_setting_and_its_default():
    from arpo_verl.integration.rollout.signals import GainSettings
    from arpo_verl.rollout.hints import HintSettings

    text = DOCUMENT.read_text()
    for settings in (GainSettings(), HintSettings()):
        for name, default in vars(settings).items():
            shown = list(default) if isinstance(default, tuple) else default
            rows = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
            written = f"{shown:g}" if isinstance(default, float) else str(shown).replace("\n", "\\n")
            assert any(written in row for row in rows), name
