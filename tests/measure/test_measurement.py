"""What a measurement says of small trees by hand, of trees that say nothing, and what it recommends."""

import io
import json
import random
from dataclasses import replace

import numpy as np
import pytest
from decision_trees import World, grow
from rich.console import Console
from tree_examples import T6_IDS, T6_MASK, T6_REWARDS
from tree_records import records_of

from arpo_verl.diagnostics import GrownTrees
from arpo_verl.integration.settings import arpo_config
from arpo_verl.measure.bootstrap import Interval, Resampled
from arpo_verl.measure.designs import preset_baselines
from arpo_verl.measure.law import GROUP, SHRUNK, SIBLINGS
from arpo_verl.measure.measurement import Measurement, NotMeasurable, measured, require_something
from arpo_verl.measure.recommendation import ADVANTAGES, Verdict, recommend
from arpo_verl.measure.report import as_json, print_report, write_json
from arpo_verl.measure.sums import PromptSums, prompt_sums
from arpo_verl.preflight.compose import PRESET, compose_config
from arpo_verl.presets import load_preset
from arpo_verl.rollout.tree import Decision
from arpo_verl.rules import build_rule


def sums_of(ids, mask, rewards, copies=8, **more) -> PromptSums:
    """Return the sums of copies of a tree, each a prompt of its own."""
    records = [record for _ in range(copies) for record in records_of(ids, mask, **more)]
    prompts = [number for number in range(copies) for _ in ids]
    return prompt_sums(GrownTrees.of(records, prompts, list(rewards) * copies))


def world_sums(world: World, prompts: int = 64, seed: int = 0) -> PromptSums:
    draw = random.Random(seed)
    grown = [grow(world, draw) for _ in range(prompts)]
    records = [record for leaves, _ in grown for record in leaves]
    numbers = [number for number, (leaves, _) in enumerate(grown) for _ in leaves]
    return prompt_sums(GrownTrees.of(records, numbers, [reward for _, rewards in grown for reward in rewards]))


def first(found: PromptSums) -> dict[str, float]:
    return {name: float(values[0]) for name, values in found.sums.items()}


def test_the_nested_tree_by_hand():
    # Root A forks into P, which forks into x (1) and y (0), and Q (0); root B is a chain of three turns (1).
    decisions = {0: [Decision(1, "coin", 0.3, fork_token=2, fork_probability=1 / 2)]}
    found = sums_of(T6_IDS, T6_MASK, T6_REWARDS, decisions=decisions)
    assert (found.prompts, found.leaves, found.forks, found.depths) == (8, 4, 16, (1, 2))
    sums = first(found)
    # A's children count once: mean (1/2 + 0) / 2 = 1/4, mean of squares 1/4; B 1. Mean of squares 5/8, product 1/4.
    assert sums["variance"] == pytest.approx(5 / 8 - 1 / 4)
    # A is half of the roots and both go on; the coin gave its fork 1/2. Below A: 1/4 - 1/2 · 0.
    assert sums["reach/1"] == 1 and sums["forked/1"] == pytest.approx(1 / 2 / (1 / 2))
    assert sums["forked_variance/1"] == pytest.approx(1 / 4)
    # P is half of A and a quarter of the roots, C half; P has 1/2 below it, and no known probability.
    assert sums["reach/2"] == pytest.approx(3 / 4) and sums["forked/2"] == pytest.approx(1 / 4)
    assert sums["forked_variance/2"] == pytest.approx(1 / 8)
    # A root has 3 turns of a token, or 2 with Q: 2.5 of A in the mean, 3 of B. After the first: 1.5 and 2.
    assert sums["tokens"] == pytest.approx(2.75) and sums["tokens_after/1"] == pytest.approx(1.75)
    assert sums["tokens_after/2"] == pytest.approx(3 / 4)
    # Calls: 2 of P's and B's, 1 of Q's. Behind the first result P's and B's second.
    assert sums["calls"] == pytest.approx(1.75) and sums["calls_after/1"] == pytest.approx(0.75)
    assert sums["calls_after/2"] == 0
    assert (sums["sampled"], sums["silent"]) == (8, 2)
    assert found.units == ("tokens", "calls")  # the records have no times


def test_seconds_are_those_of_prompts_that_have_times():
    found = world_sums(World(lambda a, b, c: 0.5), 10)
    # A token takes .1 s and a call .5 s.
    assert found.sums["seconds"] == pytest.approx(found.sums["tokens"] / 10 + found.sums["calls"] / 2)
    draw = random.Random(0)
    (with_times, earned), (without, earned_too) = (grow(World(lambda a, b, c: 0.5), draw) for _ in range(2))
    without = [replace(one, segments=[replace(part, times=None) for part in one.segments]) for one in without]
    prompts = [0] * len(with_times) + [1] * len(without)
    sums = prompt_sums(GrownTrees.of([*with_times, *without], prompts, [*earned, *earned_too])).sums
    assert sums["seconds"][0] > 0 and sums["seconds"][1] == 0 and sums["tokens"][1] > 0


def test_prompts_that_are_alike_have_an_interval_without_width():
    found = measured(sums_of(T6_IDS, T6_MASK, T6_REWARDS))
    assert found.reward_variance == Interval(*[pytest.approx(3 / 8)] * 3)
    # Below A 1/4, of 3/8 in all.
    assert found.depths[0].correlation == Interval(*[pytest.approx(1 / 3)] * 3)
    assert "calls" not in found.depths[1].cost_ratio  # nothing comes after
    assert found.silent == Interval(*[pytest.approx(1 / 4)] * 3)
    assert any("seconds" in note for note in found.notes)


def test_the_mean_of_prompts_has_the_width_of_students_interval():
    values = np.random.default_rng(1).normal(size=20)
    found = Resampled({"x": values}, resamples=20_000).interval(lambda means: means["x"])
    # t(19) = 2.093; the bootstrap's own noise is about 1 %.
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 2.093 * values.std(ddof=1) / np.sqrt(20), rel=0.05)


def test_a_number_that_does_not_exist_in_every_resample_is_not_told():
    resampled = Resampled({"x": np.ones(20), "few": np.eye(20)[0]})
    assert resampled.interval(lambda means: means["x"] / means["few"]) is None
    assert Resampled({"x": np.ones(3)}).interval(lambda means: means["x"]) is None


@pytest.mark.parametrize(
    ("change", "has_calls", "said"),
    [
        ({"prompts": 5}, True, "5 prompts have a leaf with a reward; expected 8 at least"),
        ({"leaves": 1}, True, "no prompt has two leaves that start from it"),
        ({}, False, "no tool was called"),
        ({"depths": ()}, True, "fewer than 8 prompts"),
    ],
)
def test_what_can_not_be_measured_is_said_in_words(change, has_calls, said):
    found = replace(sums_of(T6_IDS, T6_MASK, T6_REWARDS), **change)
    with pytest.raises(NotMeasurable, match=said):
        require_something(found, has_calls)


def test_rewards_that_are_all_equal_are_said_to_be():
    with pytest.raises(NotMeasurable, match="all rewards of each prompt are equal"):
        require_something(sums_of(T6_IDS, T6_MASK, [1.0] * 4), has_calls=True)


def test_one_leaf_a_prompt_is_said_to_be_too_few():
    with pytest.raises(NotMeasurable, match="no prompt has two leaves"):
        require_something(sums_of(T6_IDS[:1], T6_MASK[:1], [1.0]), has_calls=True)


def cost_of(measurement: Measurement, low: float, value: float, high: float) -> Measurement:
    """Return the measurement with one design alone, at a given cost."""
    design = replace(measurement.designs[0], baseline=GROUP, costs={"tokens": Interval(value, low, high)})
    return replace(measurement, designs=[design], best=design)


def test_trees_are_recommended_only_where_the_whole_interval_is_below_grpos():
    measurement = measured(world_sums(World(lambda a, b, c: 0.5)))
    assert recommend(cost_of(measurement, 0.8, 0.9, 0.99)).verdict is Verdict.BRANCH
    unclear = recommend(cost_of(measurement, 0.8, 0.9, 1.01))
    # Half the width is .105, and .1 is to be told from 0: twice as many at least.
    assert unclear.verdict is Verdict.UNDECIDED and "about 128 prompts" in unclear.text
    dear = recommend(cost_of(measurement, 0.9, 1.0, 1.1))
    assert dear.verdict is Verdict.DO_NOT and dear.settings == ("arpo.preset=grpo",)
    assert recommend(replace(measurement, best=None)).verdict is Verdict.UNDECIDED


def test_a_world_of_noise_recommends_trees_and_all_leaves_as_the_baseline():
    found = recommend(measured(world_sums(World(lambda a, b, c: 0.5), 200)))
    assert found.verdict is Verdict.BRANCH
    assert "the mean of the prompt's leaves" in found.text and ADVANTAGES[GROUP] in found.settings


def test_the_recommended_settings_are_shipped_presets_with_that_baseline():
    by_baseline = preset_baselines()
    assert set(by_baseline) == {GROUP, SIBLINGS, SHRUNK}
    for baseline, setting in ADVANTAGES.items():
        name = setting.removeprefix("arpo.preset=")
        assert name in by_baseline[baseline] and load_preset(name).unavailable is None
    assert {"arpo_soft", "arpo_hard", "arpo_random"} <= set(by_baseline[GROUP])
    every = {name for names in by_baseline.values() for name in names}
    assert every.isdisjoint({"grpo", "loop", "tree_grpo", "igpo", "bapo", "carl", "vineppo"})


def test_what_is_recommended_composes_and_builds_its_rule():
    measurement = measured(world_sums(World(lambda a, b, c: 0.5)))
    lift = Interval(1.5, 1.2, 1.8)
    for depth, of_entropy in ((1, None), (1, lift), (2, lift)):
        one = cost_of(replace(measurement, lift_of_entropy=of_entropy), 0.8, 0.9, 0.95)
        design = replace(one.best, depth=depth)
        settings = recommend(replace(one, designs=[design], best=design)).settings
        config = compose_config(*PRESET, list(settings))
        rule = build_rule(arpo_config(config))
        assert (rule.never_forks() is None) and config.arpo.initial_rollouts == measurement.leaves // 2
        assert ("arpo.entropy_weight=0" in settings) == (of_entropy is None)


def test_the_report_shows_no_number_without_its_interval(tmp_path):
    measurement = measured(world_sums(World(lambda a, b, c: 0.95 if a else 0.05)))
    console = Console(width=160, record=True, file=io.StringIO(), highlight=False)
    print_report(measurement, recommend(measurement), console)
    shown = console.export_text()
    depth = measurement.depths[0].correlation
    assert f"{depth.value:.2f} [{depth.low:.2f}, {depth.high:.2f}]" in shown
    assert "lift of late forks" in shown and "grpo" in shown
    write_json(measurement, recommend(measurement), tmp_path / "measured.json")
    values = json.loads((tmp_path / "measured.json").read_text())
    assert values == as_json(measurement, recommend(measurement)) | {"depths": values["depths"]}
    assert values["reward_variance"].keys() == {"value", "low", "high"}
    assert [file.name for file in tmp_path.iterdir()] == ["measured.json"]
