"""The numbers behind figures, worked out by hand, and the command that draws them."""

import math
from pathlib import Path

import numpy as np
import pytest

from arpo_verl import command_line
from arpo_verl.figures import calls, command, curves, tree
from arpo_verl.figures.entropy_around import START, entropy_around_results
from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep
from arpo_verl.record.token_values import LARGEST, LEVELS, pack
from arpo_verl.record.writing import write_step
from arpo_verl.rollout.tree import Decision, Refusal


def nats(level: int) -> float:
    """Return a value that the record keeps as it is."""
    return LARGEST * (level / LEVELS) ** 2


def sampled(*levels: int, **values) -> RecordedSegment:
    return RecordedSegment("x", len(levels), entropies=pack(np.array([nats(level) for level in levels])), **values)


def result(*tools: str, status: str = "ok", **values) -> RecordedSegment:
    return RecordedSegment("r", 5, is_sampled=False, calls=[RecordedCall(tool, status, **values) for tool in tools])


# Leaves 0 and 1 share a search and part after its result; leaf 2 calls two tools at once and ends there.
PROMPT = RecordedPrompt(
    uid="a",
    text="?",
    segments=[
        sampled(1, 2, 3, 4),
        result("search", seconds=2.0),
        sampled(5, 6),
        sampled(7),
        sampled(10),
        result("search", "python", status="timeout", seconds=1.0),
    ],
    leaves=[
        RecordedLeaf("a_0", 0, [0, 1, 2], 1.0, decisions=[Decision(1, "coin", entropy=0.5, fork_token=9)]),
        RecordedLeaf("a_1", 1, [0, 1, 3], 0.0, parent=0, fork_token=9),
        RecordedLeaf("a_2", 2, [4, 5], 0.5, refusals=[Refusal(6, "no_leaf_missing")]),
    ],
)
SECOND = RecordedPrompt(
    uid="b",
    text="?",
    segments=[sampled(3), result("search", is_cached=True), sampled(9)],
    leaves=[RecordedLeaf("b_0", 0, [0, 1, 2], 0.0)],
)
STEP = RecordedStep(1, seconds={"step": 4.0}, size=2, prompts=[PROMPT, SECOND])


def test_entropies_stand_at_their_distance_from_a_result_and_a_shared_result_counts_for_each_turn_after_it():
    found = entropy_around_results([STEP], reach=3)
    assert found.is_entropy and found.results == {START: 3, "search": 3, "python + search": 1}
    search = found.by_tool["search"]
    # Prompt a has one turn before its two turns after, b one of each; the means of prompts stand side by side.
    assert sorted(search) == [-3, -2, -1, 1, 2]
    assert search[-3] == pytest.approx([nats(2)]) and search[-1] == pytest.approx([nats(4), nats(3)])
    assert search[1] == pytest.approx([(nats(5) + nats(7)) / 2, nats(9)])
    assert search[2] == pytest.approx([nats(6)])
    assert found.by_tool["python + search"] == {-1: pytest.approx([nats(10)])}
    assert found.by_tool[START][1] == pytest.approx([(nats(1) + nats(10)) / 2, nats(3)])
    positions, estimates = found.estimates("search")
    assert positions == [-3, -2, -1, 1, 2]
    middle, spread = (nats(4) + nats(3)) / 2, abs(nats(4) - nats(3)) / math.sqrt(2)
    assert estimates[2].mean == pytest.approx(middle)
    # Two prompts leave one degree of freedom, whose quantile is tan(0.475 π).
    assert estimates[2].half_width == pytest.approx(math.tan(0.475 * math.pi) * spread / math.sqrt(2))


def test_without_entropies_surprisals_are_drawn_and_what_is_unknown_is_left_out():
    segments = [
        RecordedSegment("x", 2, log_probs=pack(np.array([np.nan, nats(4)]))),
        result("search"),
        RecordedSegment("x", 1, log_probs=pack(np.array([nats(8)]))),
    ]
    prompt = RecordedPrompt("a", "?", segments, [RecordedLeaf("a_0", 0, [0, 1, 2], 1.0)])
    found = entropy_around_results([RecordedStep(1, prompts=[prompt])], reach=5)
    assert not found.is_entropy
    assert found.by_tool["search"] == {-1: pytest.approx([nats(4)]), 1: pytest.approx([nats(8)])}


def test_a_record_without_either_has_no_entropy_figure():
    with pytest.raises(ValueError, match="no token has an entropy"):
        entropy_around_results([RecordedStep(1, prompts=[RecordedPrompt("a", "?")])], reach=5)


def test_calls_that_leaves_share_count_once_but_for_each_leaf_that_has_them():
    found = calls.calls_of([STEP])
    assert found.per_leaf == {"python": {1: 0.25}, "search": {1: 1.0}}
    assert found.statuses == {"search": {"ok": 2, "timeout": 1}, "python": {"timeout": 1}}
    assert found.seconds == {"search": [1.0, 2.0], "python": [1.0]}, "what a cache answers takes no time of a tool"


def test_a_run_without_calls_has_no_figure_of_them():
    prompt = RecordedPrompt("a", "?", [sampled(1)], [RecordedLeaf("a_0", 0, [0], 1.0)])
    with pytest.raises(ValueError, match="no tool was called"):
        calls.calls_of([RecordedStep(1, prompts=[prompt])])


def test_a_step_earns_what_leaves_from_the_prompt_do_and_costs_what_was_executed():
    cost = curves.step_cost(STEP)
    # Leaf 1 is a fork: (1 + 0.5 + 0) / 3. Calls 4, sampled tokens 4 + 2 + 1 + 1 and 1 + 1.
    assert cost == curves.StepCost(pytest.approx(0.5), calls=4, tokens=10, seconds=4.0)
    assert curves.step_cost(RecordedStep(1)) is None
    curve = curves.curve_of([cost, cost, cost], "tokens")
    assert curve is not None and curve.spent == [0.0, 10.0, 20.0]
    assert curves.curve_of([curves.StepCost(1.0, 1, 1, None)], "seconds") is None


def test_runs_that_differ_in_their_seed_alone_are_seeds_of_one_line(tmp_path):
    runs = {tmp_path / name: [STEP] for name in ("arpo-seed0", "arpo-seed1", "grpo-seed0")}
    assert {name: len(seeds) for name, seeds in curves.by_name(runs).items()} == {"arpo": 2, "grpo": 1}
    with pytest.raises(ValueError, match="other: no leaf has a reward"):
        curves.by_name({tmp_path / "other": [RecordedStep(1)]})


def test_the_tree_drawn_is_the_one_whose_rewards_differ_most_or_the_one_asked_for():
    assert tree.choose([STEP, RecordedStep(2)], None, None) == (STEP, PROMPT)
    assert tree.choose([STEP], 1, "b") == (STEP, SECOND)
    with pytest.raises(ValueError, match="step 7 has no prompts; expected one of those that have: 1"):
        tree.choose([STEP], 7, None)
    with pytest.raises(ValueError, match="step 1 has no prompt 'c'; expected one of a, b"):
        tree.choose([STEP], None, "c")


def test_a_leaf_stands_below_the_one_that_it_forked_from():
    parents = {0: None, 1: None, 2: 0, 3: 1, 4: 2, 5: 0, 6: 99}
    leaves = [RecordedLeaf(str(number), number, parent=parent) for number, parent in parents.items()]
    assert [leaf.number for leaf in tree.in_rows(leaves)] == [0, 2, 4, 5, 1, 3, 6]


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run-seed0"
    (folder / "rollouts").mkdir(parents=True)
    for step in (1, 2):
        header = RecordedStep(step, seconds={"step": 4.0}, size=2)
        write_step(folder / "rollouts" / f"{step}.jsonl", header, STEP.prompts)
    return folder


def plot(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        command_line.main(["plot", *map(str, words)])
    return int(end.value.code or 0)


@pytest.mark.parametrize("figure", command.SUMMARIES)
def test_a_figure_is_drawn_in_both_formats_and_the_same_each_time(figure, run, capsys):
    assert plot(figure, run) == 0
    drawn = run / f"{figure}.svg"
    assert capsys.readouterr().out.strip() == str(drawn)
    first = drawn.read_bytes()
    assert first.startswith(b"<?xml") and len(first) > 4000
    assert plot(figure, run) == 0 and drawn.read_bytes() == first
    picture = run / "sub.png"
    assert plot(figure, run, "--out", picture) == 0 and picture.read_bytes().startswith(b"\x89PNG")
    assert not [*run.glob("*.draft")]


def test_the_texts_of_a_tree_are_in_its_file(run):
    assert plot("tree", run, "--step", 1, "--prompt", "a") == 0
    drawn = (run / "tree.svg").read_text()
    for said in ("prompt a, step 1", "leaf 2", "reward 0.5", "H 0.50", "tokens of the response"):
        assert said in drawn
    assert "prompt b" not in drawn


def test_curves_of_several_runs_are_drawn_here(run, tmp_path, monkeypatch):
    other = run.with_name("other")
    run.rename(other)
    monkeypatch.chdir(tmp_path)
    assert plot("curves", other, other / "rollouts" / "1.jsonl") == 0
    assert "other" in (tmp_path / "curves.svg").read_text()


def test_one_file_of_a_run_has_its_figure_beside_it(run):
    assert plot("calls", run / "rollouts" / "2.jsonl") == 0
    assert (run / "rollouts" / "2-calls.svg").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("tree", "RUN", "--out", "a.pdf"), 2, "--out=a.pdf; expected a file that ends in .svg or .png"),
        (("entropy", "RUN", "--tokens", "0"), 2, "--tokens=0; expected 1 or more"),
        (("tree", "RUN", "--step", "9"), 1, "step 9 has no prompts; expected one of those that have: 1, 2"),
        (("calls", "nowhere"), 1, "nowhere is not there"),
        (("calls", "RUN", "--out", "nowhere/a.svg"), 1, "nowhere"),
    ],
)
def test_what_can_not_be_drawn_is_said_in_a_line(words, code, said, run, capsys, monkeypatch):
    monkeypatch.chdir(run)
    assert plot(*["." if word == "RUN" else word for word in words]) == code
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_damaged_step_is_named_and_the_rest_is_drawn(run, capsys):
    (run / "rollouts" / "2.jsonl").write_text("not a record\n")
    assert plot("calls", run) == 0
    assert "left out" in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(run, capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert plot("calls", run) == 1
    assert "pip install 'arpo-verl[figures]'" in capsys.readouterr().err
