"""docs/extend.md, followed: its files are written, its commands run, and each part of one's own does its work."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from evaluated import header, samples, write_run

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


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with all files of the document, on PYTHONPATH as it says."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in ("my_tools", "my_search", "my_metrics", "my_benchmarks", "my_reward"):
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
        *("my_benchmarks.py", "capitals.jsonl", "my_reward.py"),
    }
    assert len(COMMANDS) == 6


@pytest.mark.slow
async def test_a_tool_works_through_verls_tool_list(folder):
    from verl.tools.tool_registry import load_all_tools

    from arpo_verl.integration.tools import ToolSettings, VerlTools
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

    [entry] = yaml.safe_load(FILES["my_search.yaml"])["tools"]
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

    from arpo_verl.integration.evaluation import ConfigSource, compose_config

    config = compose_config(ConfigSource("pkg://arpo_verl.config", "arpo_trainer", OVERRIDES), "model")
    score = get_custom_reward_fn(config)
    right = {"solution_str": "<answer>It is Paris.</answer>", "ground_truth": ["Paris"], "extra_info": {}}
    assert score(data_source="capitals", **right) == {"score": 1.1, "acc": 1.0, "short": 1.0}
    wrong = right | {"solution_str": "Paris" + " " * 200}
    assert score(data_source="capitals", **wrong) == {"score": 0.0, "acc": 0.0, "short": 0.0}
