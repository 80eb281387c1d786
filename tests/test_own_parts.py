"""Parts of one's own by dotted path: what is wrong with one is said, with what to change."""

import argparse
import asyncio
import sys
from pathlib import Path

import pytest

from arpo_tools import open_search
from arpo_verl.data.catalog import find_dataset
from arpo_verl.evaluation.score.measures import COMPARISONS, LABELS, find_measure

PARTS = """
from arpo_tools import ToolResult, ToolStatus
from arpo_tools.search import Passage, SearchError
from arpo_verl.data.catalog import Dataset

class Texts:
    name, parameters, default_top_k = "texts", {"market": "de"}, 2
    async def search(self, query, top_k): return [query, Passage("second"), "third"]
class Numbers:
    async def search(self, query, top_k): return [1]
class Raising:
    async def search(self, query, top_k): raise KeyError("x")
class Blocking:
    def search(self, query, top_k): return []
class Nothing: pass
def half(prediction, answers): return 0.5
def true(prediction, answers): return prediction in answers
def two(prediction, answers): return 2
def none(prediction, answers): return None
def nan(prediction, answers): return float("nan")
def fails(prediction, answers): raise KeyError(prediction)
number = 5
DATA = Dataset("mine", "questions", "qa", "mine")

class Echo:
    "Say it again."
    name = "echo"
    async def run(self, text): return ToolResult(text)
class Text(Echo):
    async def run(self, text): return text
class Odd(Echo):
    async def run(self, text): return 5
class Picky(Echo):
    def __init__(self, size): self.size = size
class Nameless:
    async def run(self, text): return text
class Sync(Echo):
    def run(self, text): return text
class Described(Echo):
    name, description, parameter, can_fork = "described", "Words.", "words", False
class Refusing(Echo):
    async def run(self, text): return ToolResult("no key", ToolStatus.REFUSED)
class Duck:
    "Not ours: verl's own way, without its base class."
    def __init__(self, config, tool_schema): self.config = config
    def run(self): pass
    async def execute(self, *args): pass
"""


@pytest.fixture(autouse=True)
def parts(tmp_path, monkeypatch) -> Path:
    (tmp_path / "arpo_own_parts.py").write_text(PARTS)
    (tmp_path / "arpo_broken_part.py").write_text("import no_such_module_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("arpo_own_parts", None)


WRONG_PATHS = [
    ("no_such_module.Name", "the module 'no_such_module' can't be imported"),
    ("arpo_broken_part.Name", "No module named 'no_such_module_at_all'"),
    ("arpo_own_parts.Missing", "has no 'Missing'; expected one of its names"),
    ("arpo_own_parts.Texts.inner", "the module 'arpo_own_parts.Texts' can't be imported"),
]


@pytest.mark.parametrize(("path", "message"), WRONG_PATHS)
def test_a_path_that_names_nothing_is_explained_everywhere(path, message):
    for load in (lambda path: open_search(path), find_measure):
        with pytest.raises(ValueError, match=message):
            load(path)
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        find_dataset(path)


@pytest.mark.parametrize("name", ["nonsense", "serper.", ".serper", "a b.c", "1.2", "", "my-module.Name"])
def test_what_is_neither_known_nor_a_path_names_what_is_known(name):
    with pytest.raises(ValueError, match=r"expected one of local, .*, or a dotted path"):
        open_search(name)
    with pytest.raises(ValueError, match=r"expected one of math_verify, .*, or the dotted path of a function"):
        find_measure(name)
    with pytest.raises(argparse.ArgumentTypeError, match="is no known dataset"):
        find_dataset(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Nothing", {}, "expected a class with `async def search"),
        ("Blocking", {}, "expected a class with `async def search"),
        ("Texts", {"size": 3}, r"got an unexpected keyword argument 'size'; its options are \[\]"),
        ("Texts", {"top_k": 0}, "top_k=0; expected positive numbers"),
    ],
)
def test_a_search_engine_that_does_not_fit_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        open_search(f"arpo_own_parts.{name}", **options)


def test_a_search_engines_own_name_parameters_and_usual_count_are_used():
    tool = open_search("arpo_own_parts.Texts", name="look", max_passage_chars=5)
    assert (tool.name, tool.backend.name, tool.backend.parameters, tool.top_k) == ("look", "texts", {"market": "de"}, 2)
    result = asyncio.run(tool.run("question"))
    assert "quest" in result.text
    assert "secon" in result.text
    assert "third" not in result.text


@pytest.mark.parametrize("name", ["Numbers", "Raising"])
def test_what_a_search_engine_does_wrong_is_a_failure_of_the_tool(name):
    result = asyncio.run(open_search(f"arpo_own_parts.{name}").run("x"))
    assert result.status.value == "infrastructure_error"


def test_a_measure_of_ones_own_is_known_by_its_path():
    for name, value in ((".half", 0.5), (".true", 1.0), (":half", 0.5)):
        path = find_measure(f"arpo_own_parts{name}")
        assert (LABELS.pop(path), COMPARISONS.pop(path)("a", ("a",))) == (name[1:], value)
    assert find_measure("f1") == "f1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two", "it returned 2.0; expected 0 to 1"),
        ("nan", "it returned nan; expected 0 to 1"),
        ("none", "it raised TypeError"),
        ("fails", "prediction 'a': it raised KeyError: 'a'; expected a number"),
    ],
)
def test_a_measure_that_gives_no_share_says_on_what(name, message):
    path = find_measure(f"arpo_own_parts.{name}")
    LABELS.pop(path)
    with pytest.raises(ValueError, match=message):
        COMPARISONS.pop(path)("a", ["b"])


def test_what_is_no_function_is_no_measure():
    with pytest.raises(ValueError, match="is 5; expected a function"):
        find_measure("arpo_own_parts.number")


def test_a_dataset_of_ones_own_or_of_the_catalog_is_found_and_a_near_name_suggested():
    assert find_dataset("arpo_own_parts.DATA").name == "mine"
    assert find_dataset("gsm8k").name == "gsm8k"
    with pytest.raises(argparse.ArgumentTypeError, match=r"did you mean gsm8k\?"):
        find_dataset("gms8k")
    with pytest.raises(argparse.ArgumentTypeError, match="is of type int; expected an arpo_verl"):
        find_dataset("arpo_own_parts.number")


def listed(parts: Path, name: str, config: str = "{type: native}") -> list:
    """Make the tools of a list with one entry, as verl does."""
    from verl.tools.tool_registry import load_all_tools

    (parts / "list.yaml").write_text(f"tools: [{{class_name: arpo_own_parts.{name}, config: {config}}}]")
    return load_all_tools(str(parts / "list.yaml"), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("Echo", ("x", "ok")),
        ("Text", ("x", "ok")),
        ("Odd", ("returned int; expected a ToolResult or a text", "infrastructure_error")),
        ("Refusing", ("no key", "refused")),
    ],
)
async def test_a_tool_of_ones_own_answers_calls(parts, name, answer):
    from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools
    from arpo_verl.rollout.protocols import ToolCall

    tools = VerlTools({tool.name: tool for tool in listed(parts, name)}, ToolSettings([], {}, 200, "left"))
    given = await tools.execute(ToolCall("echo", "x"), {}, [])
    assert answer[0] in given.text
    assert given.status == answer[1]


@pytest.mark.slow
def test_a_tools_attributes_are_what_the_model_is_told(parts):
    [described] = listed(parts, "Described")
    function = described.tool_schema.function
    assert (function.name, function.description, function.parameters.required) == ("described", "Words.", ["words"])
    assert not described.can_fork
    [echo] = listed(parts, "Echo")
    assert (echo.tool_schema.function.description, echo.tool_schema.function.parameters.required) == (
        "Say it again.",
        ["text"],
    )
    assert echo.can_fork


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "error", "message"),
    [
        ("Nameless", "{type: native}", ValueError, "name=None; expected the text that the model calls it by"),
        ("Sync", "{type: native}", ValueError, "`run` is no coroutine"),
        ("Picky", "{type: native}", TypeError, "missing 1 required positional argument: 'size'"),
        ("Echo", "{type: native, size: 3}", TypeError, "takes no arguments"),
    ],
)
def test_a_tool_that_does_not_fit_is_refused(parts, name, config, error, message):
    with pytest.raises(error, match=message):
        listed(parts, name, config)


@pytest.mark.slow
def test_a_tool_of_verls_kind_is_made_by_verl_as_ever(parts):
    [duck] = listed(parts, "Duck")
    assert type(duck).__name__ == "Duck"
    assert duck.config == {"type": "native"}
