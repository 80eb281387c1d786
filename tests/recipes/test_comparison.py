"""The comparison's arithmetic on records written by hand, and its resuming."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from compare import Comparison, run_all, step_record
from comparison_table import (
    RunRecord,
    StepRecord,
    by_step,
    common_budget,
    measures,
    render,
    reward_at,
)
from quickstart import stop

from arpo_verl.figures.estimates import Curve, align, estimate, t_quantile
from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep

STEP = StepRecord(
    reward=0.5,
    leaf_reward=0.6,
    tool_calls=10,
    leaf_calls=16,
    generated_tokens=100,
    shared_tokens=0.0,
    equal_prompts=0.25,
    equal_forks=None,
    branches=0,
    top_ups=0,
    branch_probability=None,
    entropy_initial=None,
    entropy_after_tool=None,
    entropy_elsewhere=None,
)


def run(arm: str, seed: int, rewards: list[float], calls: float = 10, validation: float = 0.7) -> RunRecord:
    """A run whose steps all cost the same."""
    steps = [replace(STEP, reward=reward, tool_calls=calls, generated_tokens=10 * calls) for reward in rewards]
    parts = {"before": {"reward": 0.4}, "after": {"reward": validation, "accuracy": validation}, "gain": {}}
    return RunRecord(arm, seed, parts, steps)


@pytest.mark.parametrize(
    ("degrees_of_freedom", "expected"),
    [
        # One degree is Cauchy's distribution: the quantile of 0.975 is tan(0.475 π).
        (1, math.tan(0.475 * math.pi)),
        # For two, P(T <= t) = 1/2 + t / (2 sqrt(2 + t²)), so that t = 0.95 sqrt(2 / (1 - 0.95²)).
        (2, 0.95 * math.sqrt(2 / (1 - 0.95**2))),
        (4, 2.776445),  # from printed tables
        (19, 2.093024),
    ],
)
def test_students_quantiles_are_those_of_closed_forms_and_tables(degrees_of_freedom, expected):
    assert t_quantile(degrees_of_freedom) == pytest.approx(expected, rel=1e-6)


def test_an_interval_is_students_over_the_values():
    # Deviations -2, -1, 0, 1, 2: variance 10 / 4, standard error sqrt(2.5 / 5).
    result = estimate([1, 2, 3, 4, 5])
    assert result.mean == 3
    assert result.half_width == pytest.approx(2.776445 * math.sqrt(0.5), rel=1e-6)
    assert result.is_different_from_zero


def test_one_value_says_nothing_about_others():
    assert estimate([0.3]).half_width == math.inf
    assert not estimate([0.3]).is_different_from_zero


def test_an_interval_with_zero_inside_is_no_difference():
    # The half width of -1 and 2 is 12.7 · 1.5.
    assert not estimate([-1, 2]).is_different_from_zero


def test_a_reward_stands_at_what_was_spent_before_its_step():
    record = run("grpo", 0, [0.1, 0.2, 0.3], calls=7)
    assert record.curve() == Curve([0, 1, 2], [0.1, 0.2, 0.3])
    assert record.curve("tool_calls") == Curve([0, 7, 14], [0.1, 0.2, 0.3])
    assert record.total("tool_calls") == 21


def test_curves_meet_on_a_grid_that_ends_where_the_shortest_does():
    grid, (short, long) = align([Curve([0, 10, 20], [0, 1, 0]), Curve([0, 40], [0, 1])])
    assert (grid[0], grid[20], grid[40]) == (0, 10, 20)
    # The second curve rises by 1 in 40.
    assert (short[0], short[20], short[30], short[40]) == (0, 1, 0.5, 0)
    assert (long[0], long[20], long[40]) == (0, 0.25, 0.5)


def test_smoothing_averages_neighbours_and_moves_no_cost():
    curve = Curve([0, 5, 20, 30], [0.0, 3.0, 6.0, 0.0]).smoothed(3)
    assert curve == Curve([0, 5, 20, 30], [1.5, 3.0, 3.0, 3.0])


def test_no_curve_is_extrapolated():
    with pytest.raises(ValueError, match="end=21"):
        align([Curve([0, 20], [0, 1])], end=21)


def test_reward_at_equal_cost_is_that_of_the_last_quarter_of_what_both_have_spent():
    # Steps of 10 calls reach 20, steps of 5 calls reach 10: the budget is 10. At 10 the first has finished one step.
    seed = {
        "grpo": run("grpo", 0, [0.0, 1.0, 1.0], calls=10),
        "arpo_soft": run("arpo_soft", 0, [0.0, 1.0, 1.0], calls=5),
    }
    assert common_budget([seed], "tool_calls") == 10
    rewards = reward_at(seed, "tool_calls", 10)
    # From 7.5 to 10 the first line rises from 0.75 to 1; the second has reached 1 at 5.
    assert rewards == pytest.approx({"grpo": 0.875, "arpo_soft": 1.0})


def test_steps_are_estimated_over_seeds_and_left_out_where_one_has_no_value():
    def seed(values):
        steps = [replace(STEP, entropy_after_tool=value) for value in values]
        return {"arpo_soft": replace(run("arpo_soft", 0, []), steps=steps)}

    first, second = by_step([seed([0.1, 0.2]), seed([0.3, None])], "arpo_soft", "entropy_after_tool")
    assert first.mean == pytest.approx(0.2)
    # Standard deviation sqrt(0.02), divided by sqrt(2): 0.1.
    assert first.half_width == pytest.approx(0.1 * t_quantile(1))
    assert second is None


def two_seeds():
    """Per seed: validation grpo 0.70 and 0.60, soft 0.74 and 0.66; calls 3 · 10 and 3 · 20, soft 3 · 8 and 3 · 12."""
    rewards = [0.1, 0.2, 0.3]
    return [
        {"grpo": run("grpo", 0, rewards, 10, 0.70), "arpo_soft": run("arpo_soft", 0, rewards, 8, 0.74)},
        {"grpo": run("grpo", 1, rewards, 20, 0.60), "arpo_soft": run("arpo_soft", 1, rewards, 12, 0.66)},
    ]


def test_the_table_has_means_paired_differences_and_every_seed():
    lines = render(two_seeds()).splitlines()
    # Means 0.65 and 0.70; half widths 12.706 · 0.05 and 12.706 · 0.04.
    assert "| validation reward | 0.650 ± 0.635 | 0.700 ± 0.508 |" in lines
    # Differences 0.04 and 0.06: mean 0.05, half width 12.706 · 0.01, which is more.
    assert "| validation reward | +0.050 ± 0.127 |" in lines
    # Calls 30 and 60 against 24 and 36: -20 % and -40 %, mean -30 %, half width 12.706 · 10 %.
    assert "| tool calls | -30.0 ± 127.1 % |" in lines
    # From 0.4 to 0.70 in 30 calls and to 0.60 in 60: 10 and 10/3, half their difference 10/3. Soft from 0.4 to 0.74 in
    # 24 and to 0.66 in 36: 170/12 and 65/9, half their difference 125/36.
    assert "| validation reward gained per 1000 tool calls | 6.667 ± 42.354 | 10.694 ± 44.119 |" in lines
    # The same rewards at every step: no difference at all, and for certain.
    assert "| reward, mean of all steps | +0.000 ± 0.000 |" in lines
    assert "| 0 | 0.400 | 0.700 | 0.740 |" in lines
    assert "| 1 | 0.400 | 0.600 | 0.660 |" in lines


def test_arms_of_arpo_are_compared_with_the_default_one_too():
    seeds = [
        {
            "grpo": run("grpo", seed, [0.1, 0.2], validation=0.5),
            "arpo_soft": run("arpo_soft", seed, [0.1, 0.2], validation=0.6),
            "arpo_hard": run("arpo_hard", seed, [0.1, 0.2], validation=hard),
        }
        for seed, hard in ((0, 0.61), (1, 0.63))
    ]
    lines = render(seeds).splitlines()
    assert "| difference from grpo | arpo_soft | arpo_hard |" in lines
    assert "| difference from arpo_soft | arpo_hard |" in lines
    # 0.01 and 0.03: half width 12.706 · 0.01.
    assert "| validation reward | +0.020 ± 0.127 |" in lines


def test_a_difference_is_bold_where_its_interval_excludes_zero():
    rewards = [0.1, 0.2]
    seeds = [
        {"grpo": run("grpo", seed, rewards, validation=0.5), "arpo_soft": run("arpo_soft", seed, rewards, 8, after)}
        for seed, after in ((0, 0.60), (1, 0.61))
    ]
    # Differences 0.10 and 0.11: half width 12.706 · 0.005.
    assert "| validation reward | **+0.105 ± 0.064** |" in render(seeds)


def test_a_single_seed_and_a_single_arm_make_a_table_without_intervals_or_differences():
    text = render([{"arpo_hard": run("arpo_hard", 3, [0.1, 0.2])}])
    assert "| validation reward | 0.700 ± ∞ |" in text
    assert "difference" not in text
    assert "| 3 | 0.400 | 0.700 |" in text


def test_many_arms_are_lines_and_what_is_compared_are_columns():
    arms = ["grpo", *(f"arm{number}" for number in range(6))]
    text = render([{arm: run(arm, seed, [0.1, 0.2], validation=0.5) for arm in arms} for seed in (0, 1)])
    first = text.splitlines()
    assert first[0].startswith("| mean over seeds | validation reward | validation accuracy | ")
    assert first[2].startswith("| grpo | 0.500 ± 0.000 | 0.500 ± 0.000 | ")
    assert max(line.count("|") for line in first) == 7
    assert "| arm5 | +0.000 ± 0.000 |" in text
    # Each table has its arms, that of the seeds the model before training too.
    assert text.count("| arm3 | ") == 3 + 3 + 1 + 3
    assert "| before | 0.400 | 0.400 |" in text


def test_trees_are_described_by_means_over_steps_then_seeds_and_a_dash_where_there_are_none():
    def seed(number, forks):
        tree = replace(run("arpo_soft", number, []), steps=[replace(STEP, branches=n, equal_forks=0.5) for n in forks])
        return {"grpo": run("grpo", number, [0.1, 0.2]), "arpo_soft": tree}

    lines = render([seed(0, [1, 2]), seed(1, [3, 4])]).splitlines()
    # Means 1.5 and 3.5: mean 2.5, half width 12.706 · 1.
    assert "| forks a prompt | 0.000 ± 0.000 | 2.500 ± 12.706 |" in lines
    assert "| forks that earn what their parent does | – | 0.500 ± 0.000 |" in lines
    # 10 of the 16 calls in the leaves' texts were executed.
    assert "| share of calls saved by sharing | 0.375 ± 0.000 | 0.375 ± 0.000 |" in lines
    assert "| reward of all leaves less that of leaves from the prompt | 0.450 ± 0.000 | 0.100 ± 0.000 |" in lines
    assert "| fork probability | – | – |" in lines


def test_costs_of_the_first_step_are_those_of_one_model():
    (first,) = [row for row in measures(two_seeds()) if row.label == "tool calls of the first step"]
    assert first.values == [{"grpo": 10, "arpo_soft": 8}, {"grpo": 20, "arpo_soft": 12}]


CALL = RecordedCall("search", "ok")


def prompt(uid: str, leaves: list[RecordedLeaf]) -> RecordedPrompt:
    """A prompt whose segments have 4 sampled tokens, a result of 22 with one call, and 30 tokens that guess."""
    result = RecordedSegment("found", 22, is_sampled=False, calls=[CALL])
    return RecordedPrompt(uid, "ask", [RecordedSegment("call", 4), result, RecordedSegment("guess", 30)], leaves)


def leaf(number: int, reward: float, segments: tuple[int, ...] = (0, 1), **place: Any) -> RecordedLeaf:
    return RecordedLeaf(f"a_{number}_0", number, segments, reward, **place)


def test_without_trees_every_call_and_every_sampled_token_is_counted():
    first = prompt("a", [leaf(0, 1.0), leaf(1, 0.0, (0, 1, 0, 1, 0))])
    record = step_record({}, RecordedStep(1, prompts=[first, prompt("b", [leaf(0, -1.0, (2,)), leaf(1, -1.0, (2,))])]))
    assert record.tool_calls == record.leaf_calls == 3
    assert record.generated_tokens == 4 * 4 + 2 * 30
    assert record.reward == record.leaf_reward == -0.25
    assert record.equal_prompts == 0.5  # those of b all earn -1
    assert record.equal_forks is record.entropy_after_tool is None


def test_with_trees_what_is_shared_counts_once_and_the_reward_is_that_of_the_leaves_from_the_prompt():
    leaves = [
        leaf(0, 0.2),
        leaf(1, 0.4),
        leaf(2, 0.2, parent=0),
        leaf(3, 1.0, parent=2),
        leaf(4, 1.0, is_top_up=True),
    ]
    metrics = {"arpo/leaves": 5, "tools/calls": 3, "arpo/generated_tokens": 70, "arpo/actor_entropy/after_tool": 0.1}
    record = step_record(metrics, RecordedStep(1, prompts=[prompt("a", leaves)]))
    assert (record.tool_calls, record.leaf_calls, record.generated_tokens) == (3, 5, 70)
    assert record.reward == pytest.approx(0.3)
    assert record.leaf_reward == pytest.approx(0.56)
    assert record.equal_forks == 0.5  # leaf 2 earns what leaf 0 does, leaf 3 more than leaf 2
    assert (record.equal_prompts, record.entropy_after_tool) == (0.0, 0.1)


def test_a_tree_without_forks_has_no_share_of_them():
    metrics = {"arpo/leaves": 1, "tools/calls": 1, "arpo/generated_tokens": 9}
    assert step_record(metrics, RecordedStep(1, prompts=[prompt("a", [leaf(0, 0.2)])])).equal_forks is None


def comparison(folder, steps=2):
    return Comparison(["grpo", "arpo_soft"], [0, 1], steps, folder, folder, [])


def write(settings, record):
    path = settings.summary(record.arm, record.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.to_json())


@pytest.fixture
def finished(tmp_path):
    settings = comparison(tmp_path)
    for arm in settings.arms:
        for seed in settings.seeds:
            write(settings, run(arm, seed, [0.1, 0.2]))
    return settings


def test_a_comparison_whose_runs_have_ended_only_reports(finished):
    run_all(finished)
    assert "| 1 | 0.400 | 0.700 | 0.700 |" in (finished.output / "comparison.md").read_text()
    assert not list(finished.output.glob("tiny-world*"))


def test_the_same_runs_give_the_same_figure(finished):
    run_all(finished)
    figure = finished.output / "comparison.svg"
    first = figure.read_text()
    assert "arpo_soft" in first
    figure.unlink()
    run_all(finished)
    assert figure.read_text() == first


def test_without_matplotlib_there_is_a_table(finished, monkeypatch):
    for module in ("comparison_figure", "arpo_verl.figures.drawing"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run_all(finished)
    assert (finished.output / "comparison.md").exists()
    assert not (finished.output / "comparison.svg").exists()


def test_a_run_without_its_summary_has_not_ended(tmp_path):
    settings = comparison(tmp_path)
    record = run("grpo", 0, [0.1, 0.2])
    write(settings, record)
    (tmp_path / "arpo_soft-seed0").mkdir()
    (tmp_path / "arpo_soft-seed0" / "metrics.jsonl").write_text(json.dumps({"step": 1, "data": {}}))
    assert settings.finished("grpo", 0) == record
    assert settings.finished("arpo_soft", 0) is None


def test_a_run_of_another_length_is_neither_taken_nor_overwritten(tmp_path):
    write(comparison(tmp_path), run("grpo", 0, [0.1, 0.2]))
    with pytest.raises(SystemExit, match="expected 20"):
        comparison(tmp_path, steps=20).finished("grpo", 0)


def test_signals_that_end_a_run_end_the_one_after_it_too():
    def mine(number: int, frame: object) -> None:
        """Stand for what a program does at a signal."""

    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {end: signal.signal(end, mine) for end in ends}
    try:
        child = subprocess.Popen(["sleep", "60"])
        stop(child, "a mark that nothing has")
        assert child.poll() is not None
        assert [signal.getsignal(end) for end in ends] == [mine] * 3
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)


def test_only_the_first_arm_of_a_seed_validates_before_training(tmp_path):
    settings = comparison(tmp_path)
    assert "trainer.val_before_train=True" in settings.run("grpo", 0).overrides
    settings.validation_before(0).write_text("")
    assert "trainer.val_before_train=False" in settings.run("arpo_soft", 0).overrides
    assert "trainer.val_before_train=True" in settings.run("grpo", 1).overrides


def test_arms_differ_from_the_quickstart_in_their_presets(tmp_path):
    settings = Comparison(["arpo_hard"], [0], 2, tmp_path, tmp_path, ["arpo.branch_factor=3"])
    assert settings.run("arpo_hard", 0).overrides[2:] == ["arpo.preset=arpo_hard", "arpo.branch_factor=3"]
    at2po = settings.run("at2po", 0)
    assert at2po.overrides[2:] == ["arpo.preset=at2po", "+arpo.rule_kwargs={forks: 2}", "arpo.branch_factor=3"]
    assert (settings.run("grpo", 0).algorithm, settings.run("loop", 0).algorithm) == ("arpo", "rloo")


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.nightly
def test_the_command_trains_the_arm_that_has_not_ended(tmp_path_factory):
    output = tmp_path_factory.getbasetemp() / "quickstarts"  # where tests of the quickstart have their tiny world
    settings = Comparison(["grpo", "arpo_hard"], [0], 2, output, output / "results", [])
    finished_before = run("grpo", 0, [0.1, 0.2])
    write(settings, finished_before)
    variables = {"ARMS": "grpo arpo_hard", "SEEDS": "0", "STEPS": "2", "OUTPUT": str(output)}
    variables["RESULTS"] = str(settings.results)
    program = Path(__file__).parents[2] / "recipes" / "compare.py"
    subprocess.run([sys.executable, program], env=os.environ | variables, check=True, timeout=600)
    record = settings.finished("arpo_hard", 0)
    assert settings.finished("grpo", 0) == finished_before
    assert [0 < step.tool_calls <= step.leaf_calls for step in record.steps] == [True, True]
    assert all(None not in asdict(step).values() for step in record.steps)
    assert record.validation["before"]["samples"] == record.validation["after"]["samples"] == 288
    assert "| 0 | " in (settings.results / "comparison.md").read_text()
