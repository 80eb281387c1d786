"""docs/extend.md, followed: its files are written, its commands run, and each part of one's own does its work."""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluated import header, samples, write_run
from runs import LEAVES, PROMPTS, train

from arpo_verl.config import ArpoConfig
from arpo_verl.record import RecordedLeaf, RecordedPrompt, read_steps
from arpo_verl.rollout.tree import NO_LEAF_MISSING, Leaf, Segment, Tree
from arpo_verl.rollout.turn_points import turn_points
from arpo_verl.rules import Decision, ForkPoint, Round, build_rule

DOCUMENT = Path(__file__).parent.parent / "docs" / "extend.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(DOCUMENT.read_text())
FILES = {
    found[1]: content.removeprefix(found[0])
    for _, content in BLOCKS
    if (found := re.match(r"# ([\w.]+\.\w+)\n", content))
}
COMMANDS = [line for language, content in BLOCKS if language == "bash" for line in content.splitlines()]
OVERRIDES = next(content.split() for language, content in BLOCKS if content.startswith("reward."))
TRAINING_KEYS = ("arpo.rule=", "algorithm.adv_estimator=", "arpo.loss=", "actor_rollout_ref.rollout.multi_turn.")
TRAINING_OVERRIDES = [
    word
    for language, content in BLOCKS
    if language == "text" and content.startswith(TRAINING_KEYS) and "=composed" not in content  # a loss of ours
    for word in content.split()
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with all files of the document, on PYTHONPATH as it says."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in ("my_tools", "my_search", "my_metrics", "my_benchmarks", "my_reward", "my_rules", "my_advantages"):
        sys.modules.pop(module, None)


def command(words: str) -> str:
    """Run a command of the document as it stands there; return what it printed."""
    assert words in COMMANDS
    run = [str(Path(sys.executable).with_name("arpo-verl")), *words.split()[1:]]
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_document_names_its_files_once_and_its_commands_are_known_here():
    assert set(FILES) == {
        *("my_tools.py", "my_tools.yaml", "my_search.py", "glossary.txt", "my_search.yaml", "my_metrics.py"),
        *("my_benchmarks.py", "capitals.jsonl", "my_reward.py", "my_rules.py", "my_advantages.py", "my_losses.py"),
    }
    assert len(COMMANDS) == 6


@pytest.mark.slow
async def test_a_tool_works_through_verls_tool_list(folder):
    from verl.tools.tool_registry import load_all_tools

    from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools
    from arpo_verl.rollout.protocols import ToolCall

    made = {tool.name: tool for tool in load_all_tools("my_tools.yaml", None)}
    assert [*made] == ["roman", "python"]
    function = made["roman"].tool_schema.function
    assert function.description == "Write a whole number in Roman numerals."
    assert function.parameters.required == ["number"]
    tools = VerlTools(made, ToolSettings([], {}, 100, "left"))
    answer = await tools.execute(ToolCall("roman", "94"), {}, [])
    assert (answer.text, answer.status) == ("XCIV", "ok")
    native = await tools.execute(ToolCall("roman", {"number": 100}), {}, [])
    assert native.text == "C"
    refused = await tools.execute(ToolCall("roman", "101"), {}, [])
    assert (refused.text, refused.status) == ("Error: expected a number from 1 to 100.", "model_error")


@pytest.mark.slow
def test_the_doctor_makes_the_tool(folder):
    said = command("arpo-verl doctor actor_rollout_ref.rollout.multi_turn.tool_config_path=my_tools.yaml")
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert any("other tools" in line and "made, not called: my_tools.Roman" in line for line in lines), said


def test_a_search_engine_works_as_a_back_end(folder):
    import yaml

    from arpo_tools import open_search

    [entry, _] = yaml.safe_load(FILES["my_search.yaml"])["tools"]
    tool = open_search(**{key: value for key, value in entry["config"].items() if key != "type"})
    result = asyncio.run(tool.run("What is the ENTROPY of a rollout"))
    assert "the mean surprise of a distribution" in result.text
    assert "one run of the model" in result.text
    assert asyncio.run(tool.run("nothing")).status.value == "empty"
    (folder / "empty.txt").touch()
    failed = asyncio.run(open_search("my_search.Glossary", file="empty.txt").run("x"))
    assert (failed.text, failed.status.value) == ("Error: the glossary is empty: fill its file", "infrastructure_error")


def test_a_search_engines_answers_are_cached_where_a_file_is_named(folder):
    from arpo_tools import open_search

    first = open_search("my_search.Glossary", file="glossary.txt", cache="cache.sqlite")
    text = asyncio.run(first.run("entropy")).text
    (folder / "glossary.txt").write_text("entropy: changed\n")
    again = open_search("my_search.Glossary", file="glossary.txt", cache="cache.sqlite")
    assert asyncio.run(again.run("entropy")).text == text
    assert "changed" in asyncio.run(open_search("my_search.Glossary", file="glossary.txt").run("entropy")).text


@pytest.mark.slow
def test_a_metric_measures_runs(folder):
    write_run(folder / "run.jsonl", header(2, 1), [*samples("q0", "Poznań"), *samples("q1", "Rome")])
    write_run(folder / "other_run.jsonl", header(2, 1), [*samples("q0", "Paris"), *samples("q1", "Prague")])
    report = command("arpo-verl eval score run.jsonl --measure my_metrics.same_first_letter")
    assert re.search(r"same first letter *\| *2 *\| *0 *\| *\*\*50\.0", report), report
    compared = command("arpo-verl eval compare run.jsonl other_run.jsonl --metric my_metrics.same_first_letter")
    assert re.search(r"50\.0.*100\.0", compared), compared


@pytest.mark.slow
def test_a_benchmark_is_converted_and_valid(folder):
    command("arpo-verl data convert my_benchmarks.CAPITALS --from capitals.jsonl --out capitals.parquet")
    command("arpo-verl data validate capitals.parquet --tools python,search")
    rows = pq.read_table("capitals.parquet").to_pylist()
    assert [row["data_source"] for row in rows] == ["capitals", "capitals"]
    assert rows[1]["reward_model"]["ground_truth"] == ["Lima", "Ciudad de los Reyes"]
    assert [row["extra_info"]["level"] for row in rows] == ["Europe", "South America"]


@pytest.mark.slow
def test_a_reward_is_loaded_by_verl_and_scores(folder):
    from verl.trainer.ppo.reward import get_custom_reward_fn

    from arpo_verl.evaluation.run.verl_agent import ConfigSource, compose_evaluation_config

    config = compose_evaluation_config(ConfigSource("pkg://arpo_verl.config", "arpo_trainer", OVERRIDES), "model")
    score = get_custom_reward_fn(config)
    right = {"solution_str": "<answer>It is Paris.</answer>", "ground_truth": ["Paris"], "extra_info": {}}
    assert score(data_source="capitals", **right) == {"score": 1.1, "acc": 1.0, "short": 1.0}
    wrong = right | {"solution_str": "Paris" + " " * 200}
    assert score(data_source="capitals", **wrong) == {"score": 0.0, "acc": 0.0, "short": 0.0}


def test_an_advantage_is_a_function_of_a_tree_batch(folder):
    import torch
    from my_advantages import uncertain

    from arpo_verl.advantages import TreeBatch

    batch = TreeBatch(
        token_level_rewards=torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
        response_mask=torch.tensor([[1, 0, 1], [1, 0, 1]]),
        prompt=torch.tensor([0, 0]),
        is_excluded=torch.tensor([False, False]),
        parents=torch.tensor([-1, 0]),
        entropies=torch.tensor([[1.0, 9.0, 1.0], [1.0, 9.0, 5.0]]),
    )
    # Rewards of 1 and 0: 0.5 and -0.5. Sampled entropies 1, 1, 1, 5: mean 2, deviation 2.
    advantages, columns = uncertain(batch, weight=0.5)
    assert advantages.tolist() == [pytest.approx([0.375, 0, 0.375]), pytest.approx([-0.375, 0, -0.875])]
    assert columns["is_fork"].tolist() == [[0, 0, 0], [1, 1, 1]]


def fork_point(tree: Tree, leaf: Leaf, *entropies: float) -> ForkPoint:
    return ForkPoint(leaf, tree, list(entropies), vocabulary_size=100, generator=random.Random(0))


def test_a_branching_rule_compares_with_its_prompts_fork_points_and_counts_along_each_path(folder):
    rule = build_rule(ArpoConfig(rule="my_rules.AboveAverage", rule_kwargs={"depth": 2}))
    tree = Tree(16, rule_state=rule.tree_state())
    leaf = Leaf(0, "0", "s/0", rule_state=rule.root_state())
    assert rule.decide(fork_point(tree, leaf, 1.0, 3.0)) == Decision(1, "one_a_result")
    other = Leaf(1, "1", "s/1", rule_state=rule.root_state())
    assert rule.decide(fork_point(tree, other, 1.0)) == Decision(0, "below_average")  # of 2
    fork = leaf.fork(2, "0.1.0")
    assert rule.decide(fork_point(tree, fork, 1.6)) == Decision(1, "one_a_result")  # above 1.5, of 2 and 1
    assert rule.decide(fork_point(tree, fork, 9.0)) == Decision(0, "depth")
    assert (leaf.rule_state.forks, fork.rule_state.forks, other.rule_state.forks) == (1, 2, 0)
    # 2 levels are left of `other`: 2**2 - 1 forks, in 5 results; in one result a single one.
    assert [rule.possible_forks(tree, of, 5) for of in (leaf, fork, other)] == [1, 0, 3]
    assert rule.possible_forks(tree, other, 1) == 1


def test_a_rule_of_ones_own_writes_the_longest_answers_again_in_a_round(folder):
    rule = build_rule(ArpoConfig(rule="my_rules.LongestAnswers", rule_kwargs={"forks": 3}))
    leaves = []
    for number, turns in enumerate(([4, 9], [7], [2, 1, 8])):
        leaf = Leaf(number, str(number), f"s/{number}")
        for turn, tokens in enumerate(turns):
            leaf.keep_snapshot()
            leaf.segments.append(Segment(10 * number + turn, [1] * tokens, True, [-1.0] * tokens))
            leaf.tool_turns += 1
        leaves.append(leaf)
    tree = Tree(8, created=3, ended=leaves)
    assert rule.round_places(tree) == 5
    tree.rounds = 1
    plan = rule.plan_round(Round(tree, turn_points(leaves), 100, random.Random(0)))
    assert [(point.leaf.number, decision.forks, decision.score) for point, decision in plan] == [
        (0, 3, 9), (2, 3, 8), (1, 3, 7),
    ]  # fmt: skip
    assert rule.round_places(tree) == 0


def written_glossary(world: Path) -> str:
    """Return the tiny world's facts as lines of the document's glossary, marked by a `=` that the corpus has not."""
    documents = [json.loads(line) for line in (world / "corpus.jsonl").read_text().splitlines()]
    return "".join(f"{one['title']}: {one['contents']}=\n" for one in documents)


def write_questions_for_the_search_engine(world: Path, file: Path) -> None:
    """Write the training questions that need a single search, so that many leaves have one."""
    questions = pq.read_table(world / "train.parquet")
    keep = ["*" not in messages[-1]["content"] for messages in questions["prompt"].to_pylist()]
    pq.write_table(questions.filter(pa.array(keep)), file)


@pytest.fixture(scope="module")
def training(world, tmp_path_factory) -> tuple[list[dict[str, float]], list[tuple[RecordedPrompt, RecordedLeaf]]]:
    """Two steps with the document's rule, advantage, loss and search engine: what they logged, and their leaves."""
    folder = tmp_path_factory.mktemp("extend")
    for name, content in (FILES | {"glossary.txt": written_glossary(world)}).items():
        (folder / name).write_text(content)
    write_questions_for_the_search_engine(world, folder / "questions.parquet")
    added = [f"+{word}" if word.startswith("arpo.") else word for word in TRAINING_OVERRIDES]
    # A corpus that is not there: whatever is found comes from the document's engine.
    environment = {"PYTHONPATH": ".", "ARPO_SEARCH_CORPUS": "nowhere.jsonl"}
    added += ["data.train_files=questions.parquet", "trainer.total_training_steps=2"]
    steps = train(world, folder, *added, **environment)
    return steps, [row for step in read_steps(folder) for row in step.rows()]


@pytest.mark.slow
@pytest.mark.engine
def test_a_rule_an_advantage_a_loss_and_a_search_engine_train_together(training):
    steps, leaves = training
    assert len(TRAINING_OVERRIDES) == 8
    assert (len(steps), len(leaves)) == (2, 2 * PROMPTS * LEAVES)
    for step in steps:
        assert step["actor/grad_norm"] > 0
        assert step["actor/entropy_loss"] > 0  # the actor has computed entropies, with verl's own bookkeeping
        assert step["actor/turns"] >= 1  # the loss
        assert step["arpo/leaves"] == LEAVES
    assert sum(step["actor/forks"] for step in steps) > 0  # what the advantage hands the loss
    assert sum(step["arpo/branches_per_prompt"] for step in steps) > 0


@pytest.mark.slow
@pytest.mark.engine
def test_the_rules_decisions_are_what_is_logged(training):
    steps, leaves = training
    limits = {"depth", "below_average", "one_a_result", NO_LEAF_MISSING}
    for step in steps:
        shares = {name: value for name, value in step.items() if name.startswith("arpo/fork_limit/")}
        assert {name.removeprefix("arpo/fork_limit/") for name in shares} <= limits
        assert sum(shares.values()) == pytest.approx(1)
    decisions = [decision for _, leaf in leaves for decision in leaf.decisions]
    assert {decision.limit for decision in decisions} <= limits
    assert sum(decision.forks for decision in decisions) > 0
    assert all(decision.forks == 0 for decision in decisions if decision.limit in ("depth", "below_average"))
    # `depth=1`: no leaf has two of its own, and none that was forked has any.
    assert all(sum(decision.forks for decision in leaf.decisions) <= 1 for _, leaf in leaves)
    assert not any(decision.forks for _, leaf in leaves if leaf.parent is not None for decision in leaf.decisions)


@pytest.mark.slow
@pytest.mark.engine
def test_the_search_engines_answers_stand_in_the_leaves(training):
    steps, leaves = training
    assert sum(step.get("tools/search/status/ok", 0) for step in steps) > 0
    result = r"<result>\nPage 1: \w+ \d\d=\n</result>"
    found = [prompt.calls_of(leaf) for prompt, leaf in leaves if re.search(result, prompt.output_of(leaf))]
    assert found
    for calls in found:
        assert any(call.tool == "search" and call.status == "ok" for call in calls)
