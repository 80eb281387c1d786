"""Every shipped preset is made of parts that exist and take their settings, on ours and on verl's configuration."""

import re

import pytest
import yaml
from asked import given
from omegaconf import OmegaConf

from arpo_verl.integration.settings import RunParts, arpo_config, register_resolver
from arpo_verl.preflight.checks import check_parts
from arpo_verl.preflight.compose import PRESET, compose_config
from arpo_verl.presets import load_preset, preset_names
from arpo_verl.presets.command import run as list_algorithms
from arpo_verl.presets.fill import fill_preset
from arpo_verl.rules import build_rule

AVAILABLE = [name for name in preset_names() if not load_preset(name).unavailable]


@pytest.fixture(scope="module", params=[PRESET, ("config", "ppo_trainer")], ids=["ours", "verls"])
def configuration(request):
    register_resolver()
    return compose_config(
        *request.param, ["actor_rollout_ref.rollout.n=16", "actor_rollout_ref.actor.ppo_mini_batch_size=16"]
    )


@pytest.mark.parametrize("name", AVAILABLE)
def test_its_parts_take_their_settings(name, configuration, tmp_path):
    config = OmegaConf.create(OmegaConf.to_container(configuration))
    OmegaConf.update(config, "arpo.preset", name, force_add=True)
    for one in given(load_preset(name), tmp_path):
        key, _, value = one.partition("=")
        OmegaConf.update(config, key.lstrip("+"), yaml.safe_load(value), force_add=True)
    fill_preset(config, [])
    check_parts(config)
    assert build_rule(arpo_config(config))
    assert RunParts.of(config).uses_our_advantage == (config.algorithm.adv_estimator == "arpo")


@pytest.mark.parametrize("name", preset_names())
def test_it_says_what_it_is(name):
    preset = load_preset(name)
    assert preset.paper is None or re.fullmatch(r"\d{4}\.\d{5}", preset.paper)
    for text in (preset.title, preset.summary, preset.needs, preset.costs):
        assert text == text.strip() and not text.endswith(".")


class Arguments:
    def __init__(self, name=None):
        self.name = name


def test_the_command_lists_each_in_a_line_with_its_paper(capsys):
    assert list_algorithms(Arguments()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(preset_names())
    assert any(re.match(r"gigpo +2505\.10978 +GiGPO: .* Needs .* Costs ", line) for line in lines)


@pytest.mark.parametrize("name", preset_names())
def test_the_command_shows_what_one_sets(capsys, name):
    assert list_algorithms(Arguments(name)) == 0
    shown = capsys.readouterr().out
    preset = load_preset(name)
    assert all(f"{key}:" in shown for key in preset.settings)
    assert (preset.unavailable or "sets:") in shown


def test_the_command_answers_an_unknown_name_with_the_known_ones(capsys):
    assert list_algorithms(Arguments("gippo")) == 2
    assert "expected one of" in capsys.readouterr().err
