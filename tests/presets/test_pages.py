"""Every shipped preset has a page in docs/algorithms that says what its file says, with numbers that are right."""

import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml
from algorithm_pages import FOLDER, INDEX, THEORY, WITHOUT_QUICKSTART, pages, quickstart_overrides, with_derived
from asked import given
from omegaconf import OmegaConf
from tree_examples import T5_IDS, t5, t6, turns

from arpo_verl.advantages import ADVANTAGES
from arpo_verl.integration.settings import register_resolver
from arpo_verl.preflight.checks import check_parts
from arpo_verl.preflight.compose import PRESET, compose_config
from arpo_verl.preflight.rollout_checks import check_rule
from arpo_verl.presets import load_preset, preset_names
from arpo_verl.presets.fill import fill_preset

PAGES = pages()
AVAILABLE = [name for name in preset_names() if not load_preset(name).unavailable]
ORDER = ["Formula", "An example", "How it is made here", "Differences from the paper", "Needs and costs", "Evidence"]
SURPRISALS = {2: 0.2, 3: 0.3, 4: 0.5}
"""H of T5's turns x, y and z, for values that are weighted by it."""
FORKS_OF_T5 = {"parents": torch.tensor([-1, 0, 0, -1, -1]), "fork_tokens": torch.tensor([0, 3, 3, 0, 0])}
FORKS_OF_T6 = {"parents": torch.tensor([-1, 0, 0, -1]), "fork_tokens": torch.tensor([0, 4, 2, 0])}
QUICKSTART = ["platform=cpu", "algorithm.adv_estimator=arpo", "actor_rollout_ref.rollout.n=8"]
"""What `recipes/quickstart.sh` sets of what presets set too."""
EXAMPLE = re.compile(r"^\| \*\*(T[56])\*\*[^|]*\|(.*)\|$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(#[^)]*)?\)")


def text_of(name: str) -> str:
    return PAGES[name].read_text()


def test_every_preset_has_a_page_and_every_page_a_preset():
    assert set(PAGES) == set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_page_says_what_the_presets_file_says(name):
    preset, text = load_preset(name), text_of(name)
    first = text.splitlines()[0]
    assert (f"arXiv {preset.paper}](https://arxiv.org/abs/{preset.paper})" if preset.paper else "(ours)") in first
    assert with_derived(text, preset) == text, "run python tests/shared/algorithm_pages.py"
    assert (preset.unavailable or f"arpo.preset={name}") in text


@pytest.mark.parametrize("name", preset_names())
def test_a_page_has_its_parts_in_order(name):
    found = re.findall(r"^## (.*)$", text_of(name), re.MULTILINE)
    assert found == [*ORDER, "Run it"]


@pytest.mark.parametrize("name", preset_names())
def test_the_index_has_a_row_with_the_papers_number(name):
    paper = load_preset(name).paper or "ours"
    assert f"| [{name}]({name}.md) | {paper} |" in INDEX.read_text()


@pytest.mark.parametrize("file", [INDEX, THEORY, *PAGES.values()], ids=lambda file: file.stem)
def test_links_lead_somewhere(file):
    for address, anchor in LINK.findall(file.read_text()):
        target = file if not address else (FOLDER / address).resolve()
        assert target.exists(), address
        if anchor:
            assert anchor[1:] in anchors(target), f"{address}{anchor}"


def anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("name", [name for name in AVAILABLE if EXAMPLE.search(text_of(name))])
def test_the_worked_example_is_what_the_preset_computes(name):
    settings = load_preset(name).settings
    advantage = ADVANTAGES.find(settings["arpo.advantage"], "arpo.advantage")
    log_probs = torch.tensor([[-SURPRISALS.get(one, 0.0) for one in row] for row in T5_IDS], dtype=torch.float64)
    batches = {"T5": t5(log_probs=log_probs, **FORKS_OF_T5), "T6": t6(**FORKS_OF_T6)}
    for tree, cells in EXAMPLE.findall(text_of(name)):
        result = advantage(batches[tree], **settings.get("arpo.advantage_kwargs", {}))
        computed = turns(result if isinstance(result, torch.Tensor) else result[0], batches[tree])
        written = [cell.strip().split(" → ") for cell in cells.split("|") if cell.strip()]
        for leaf, (numbers, expected) in enumerate(zip(written, computed, strict=True)):
            given = [float(Fraction(number)) for number in numbers]
            given = given * len(expected) if len(given) == 1 else given
            assert given == pytest.approx(expected, abs=1e-5), f"{tree}, leaf {leaf}"


@pytest.fixture(scope="module")
def quickstart():
    register_resolver()
    return compose_config(*PRESET, QUICKSTART)


@pytest.mark.parametrize("name", [name for name in AVAILABLE if name not in WITHOUT_QUICKSTART])
def test_the_quickstart_takes_the_preset_as_the_page_says(name, quickstart, tmp_path):
    preset = load_preset(name)
    overrides = quickstart_overrides(preset)
    assert f"bash recipes/quickstart.sh {' '.join(overrides)}\n" in text_of(name)
    own = [*(one for one in overrides if one not in preset.asks), *given(preset, tmp_path)]
    config = OmegaConf.create(OmegaConf.to_container(quickstart))
    for override in own:
        key, _, value = override.removeprefix("+").partition("=")
        OmegaConf.update(config, key, yaml.safe_load(value), force_add=True)
    fill_preset(config, [*QUICKSTART, *own])
    check_parts(config)
    check_rule(config)


@pytest.mark.parametrize("file", [INDEX, THEORY, *PAGES.values()], ids=lambda file: file.stem)
def test_where_a_fact_comes_from_is_said_in_words(file):
    assert not re.search(r"\[[PCXSADLR?]\]|family\.md", file.read_text())
